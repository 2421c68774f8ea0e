#include "render.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace pretexture {
namespace {

// Values of each plane of a strip. Three planes of so many floats stay in the first-level cache.
constexpr size_t kStripValues = 2048;
// Floats in a page of memory.
constexpr size_t kPage = 1024;
// Rows of a turned view that are copied at a time.
constexpr size_t kTile = 16;

// Adds the time since the last call to a counter.
class Stopwatch {
 public:
  void Lap(uint64_t* counter) {
    const auto now = std::chrono::steady_clock::now();
    *counter += static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count());
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

template <typename T, int kChannels>
struct Pixel {
  T values[kChannels];
};

// Whether the colours of a pixel depend on the whole view.
bool ColorsNeedWholeView(const View& view) {
  return std::any_of(view.colors.begin(), view.colors.end(),
                     [](const ColorChange& change) { return change.whole_view; });
}

template <typename T>
T* Grown(std::vector<T>* buffer, size_t size) {
  if (buffer->size() < size) buffer->resize(size);
  return buffer->data();
}

// Like TensorFlow's mean of three bytes, which overflows because it adds them up in a byte.
void WrapGray(const Region& region) {
  for (int y = 0; y < region.rect.height(); ++y) {
    uint8_t* pixel = region.pixels + static_cast<size_t>(y) * region.stride;
    for (int x = 0; x < region.rect.width(); ++x, pixel += 3) {
      const auto sum = static_cast<uint8_t>(pixel[0] + pixel[1] + pixel[2]);
      pixel[0] = pixel[1] = pixel[2] = sum / 3;
    }
  }
}

}  // namespace

Renderer::Renderer(const Plan& plan, const Format& format, const Kernels& kernels, bool past_cache,
                   const DecodeOptions& options)
    : plan_(plan), format_(format), kernels_(kernels), past_cache_(past_cache), decoder_(options) {
  format_.BatchBytes(1);  // throws if the sizes of a record overflow
}

void Renderer::Render(Span encoded, const Draws& draws, uint8_t* out, std::vector<int32_t>* labels,
                      RowPoints* rows) {
  Stopwatch watch;
  const ImageSize size = decoder_.Open(encoded);
  plan_.Draw(size.height, size.width, draws, &views_, labels);
  FindCanvases();
  Rect rect{size.width, size.height, 0, 0};
  for (size_t c = 0; c < canvas_count_; ++c) {
    const Canvas& canvas = canvases_[c];
    rect.x0 = std::min(rect.x0, canvas.x.begin);
    rect.x1 = std::max(rect.x1, canvas.x.end);
    rect.y0 = std::min(rect.y0, canvas.y.begin);
    rect.y1 = std::max(rect.y1, canvas.y.end);
  }
  const Region region = decoder_.Decode(rect, rows);
  // It comes before all splits of the image, so it is the same in all views.
  if (views_[0].wrapped_gray) WrapGray(region);
  watch.Lap(&times.decode);
  for (size_t c = 0; c < canvas_count_; ++c) RenderCanvas(canvases_[c], region, out);
  if (past_cache_) kernels_.fence();
}

void Renderer::FindCanvases() {
  canvas_count_ = 0;
  for (size_t v = 0; v < views_.size(); ++v) {
    const View& view = views_[v];
    // The views that a rotation makes are next to each other.
    if (canvas_count_ > 0 && view.SamePixels(views_[canvases_[canvas_count_ - 1].first_view])) {
      canvases_[canvas_count_ - 1].end_view = v + 1;
      continue;
    }
    if (canvases_.size() == canvas_count_) canvases_.emplace_back();
    Canvas& canvas = canvases_[canvas_count_++];
    canvas.first_view = v;
    canvas.end_view = v + 1;
    canvas.x.Build(view.SourceX(), view.sampling);
    canvas.y.Build(view.SourceY(), view.sampling);
  }
}

void Renderer::RenderCanvas(const Canvas& canvas, const Region& region, uint8_t* out) {
  const View& base = views_[canvas.first_view];
  if (canvas.end_view - canvas.first_view == 1 && !base.turned) {
    RenderPixels(canvas, base, region, past_cache_, out + canvas.first_view * ViewBytes());
    return;
  }
  RenderPixels(canvas, base, region, false, Grown(&canvas_, ViewBytes()));
  Stopwatch watch;
  for (size_t v = canvas.first_view; v < canvas.end_view; ++v) {
    uint8_t* const to = out + v * ViewBytes();
    switch (format_.dtype) {
      case DType::kFloat32:
        CopyView<uint32_t>(base, views_[v], to);
        break;
      case DType::kFloat16:
        CopyView<uint16_t>(base, views_[v], to);
        break;
      case DType::kUint8:
        CopyView<uint8_t>(base, views_[v], to);
        break;
    }
  }
  watch.Lap(&times.color);
}

// Rows are worked on together as long as their planes stay in the first-level cache.
size_t Renderer::Canvas::strip_rows() const {
  return std::min(height(), std::max<size_t>(1, kStripValues / width()));
}

struct Renderer::Planes {
  float* start;
  size_t width;   // of a row
  size_t stride;  // from one plane to the next; 0 if the view is grey

  // The strip of `count` rows that lie `offset` rows from the start, for the view's rows from `y`
  // on.
  Strip At(size_t offset, size_t y, size_t count) const {
    float* const r = start + offset * width;
    return {{r, r + stride, r + 2 * stride}, count * width, y * width};
  }
};

Renderer::Planes Renderer::PlanesFor(const Canvas& canvas, const View& view, size_t rows) {
  const size_t width = canvas.width();
  // The planes begin at different places of a memory page, so that writing one of them does not
  // delay the others.
  const size_t stride = rows * width / kPage * kPage + kPage + kPage / 3;
  // If a view is grey from the start, only one channel is resampled and coloured.
  const bool gray = !view.colors.empty() && view.colors[0].makes_gray;
  return {Grown(&planes_, 3 * stride), width, gray ? 0 : stride};
}

class Renderer::Statistics {
 public:
  void Add(const Kernels& kernels, const Strip& strip) {
    // Sums of differences from one of the values stay exact even if the view is nearly flat.
    if (strip.first == 0) pivot_ = strip.planes[0][0];
    for (size_t c = 0; c < strip.distinct(); ++c) {
      kernels.moments(strip.planes[c], strip.n, pivot_, sums_);
    }
    count_ += strip.n * strip.distinct();
  }

  // What standardizes a view of `values` values after `by`, which is the same for all channels. The
  // mean of x * scale + bias is mean * scale + bias, and its deviation is deviation * |scale|.
  Normalization Standardization(size_t values, const Normalization& by) const {
    const double mean = sums_[0] / double(count_);
    const double scale = double(by.factor[0]);
    const double deviation =
        std::sqrt(std::max(0.0, sums_[1] / double(count_) - mean * mean)) * std::abs(scale);
    const double factor = scale / std::max(deviation, 1 / std::sqrt(double(values)));
    Normalization result;
    for (size_t c = 0; c < 3; ++c) {
      result.centre[c] = static_cast<float>(mean + double(pivot_));
      result.factor[c] = static_cast<float>(factor);
    }
    return result;
  }

 private:
  float pivot_ = 0;
  double sums_[2] = {0, 0};  // of differences from pivot_, and of their squares
  size_t count_ = 0;         // values
};

Normalization Renderer::PlannedNormalization() const {
  Normalization by;
  if (plan_.normalize && format_.dtype != DType::kUint8) {
    std::copy_n(plan_.scale.data(), 3, by.factor);
    std::copy_n(plan_.bias.data(), 3, by.bias);
  }
  return by;
}

void Renderer::RenderPixels(const Canvas& canvas, const View& view, const Region& region,
                            bool past_cache, uint8_t* out) {
  if (Standardizes() || ColorsNeedWholeView(view)) {
    RenderWhole(canvas, view, region, past_cache, out);
  } else {
    RenderByStrip(canvas, view, region, past_cache, out);
  }
}

// Finishes one strip after the other, all in the same memory.
void Renderer::RenderByStrip(const Canvas& canvas, const View& view, const Region& region,
                             bool past_cache, uint8_t* out) {
  const size_t height = canvas.height(), rows = canvas.strip_rows();
  const Planes planes = PlanesFor(canvas, view, rows);
  const Normalization by = PlannedNormalization();
  Stopwatch watch;
  for (size_t y = 0; y < height; y += rows) {
    const size_t end = std::min(height, y + rows);
    const Strip strip = planes.At(0, y, end - y);
    Resample(canvas, region, static_cast<int>(y), static_cast<int>(end), strip);
    watch.Lap(&times.resample);
    Color(view, strip);
    Write(strip, by, past_cache, out);
    watch.Lap(&times.color);
  }
}

// Keeps all strips and writes them at the end, because statistics over the whole view come first.
void Renderer::RenderWhole(const Canvas& canvas, const View& view, const Region& region,
                           bool past_cache, uint8_t* out) {
  const size_t height = canvas.height(), rows = canvas.strip_rows();
  const Planes planes = PlanesFor(canvas, view, height);
  const bool whole_color = ColorsNeedWholeView(view);
  Statistics statistics;
  const auto finish = [&](const Strip& strip) {
    Color(view, strip);
    if (Standardizes()) statistics.Add(kernels_, strip);
  };

  Stopwatch watch;
  for (size_t y = 0; y < height; y += rows) {
    const size_t end = std::min(height, y + rows);
    const Strip strip = planes.At(y, y, end - y);
    Resample(canvas, region, static_cast<int>(y), static_cast<int>(end), strip);
    watch.Lap(&times.resample);
    if (!whole_color) finish(strip);
    watch.Lap(&times.color);
  }
  if (whole_color) finish(planes.At(0, 0, height));
  Normalization by = PlannedNormalization();
  if (Standardizes()) by = statistics.Standardization(format_.ViewValues(), by);
  for (size_t y = 0; y < height; y += rows) {
    Write(planes.At(y, y, std::min(rows, height - y)), by, past_cache, out);
  }
  watch.Lap(&times.color);
}

void Renderer::Resample(const Canvas& canvas, const Region& region, int y0, int y1,
                        const Strip& strip) {
  const Taps &tx = canvas.x, &ty = canvas.y;
  const size_t width = static_cast<size_t>(tx.count);
  const size_t pixels = static_cast<size_t>(tx.end - tx.begin);
  float* const line = Grown(&line_, 3 * pixels + 1);
  float* const gray_line = Grown(&gray_line_, pixels);
  const size_t inset = static_cast<size_t>(tx.begin - region.rect.x0) * 3;
  for (int y = y0; y < y1; ++y) {
    rows_.clear();
    weights_.clear();
    for (int k = 0; k < ty.width; ++k) {
      const float weight = ty.weight[static_cast<size_t>(k * ty.count + y)];
      if (weight == 0) continue;
      const int row = ty.begin + ty.start[static_cast<size_t>(y)] + k;
      rows_.push_back(region.Row(row) + inset);
      weights_.push_back(weight);
    }
    kernels_.blend_rows(rows_.data(), weights_.data(), static_cast<int>(rows_.size()), 3 * pixels,
                        line);
    const size_t at = static_cast<size_t>(y - y0) * width;
    if (strip.gray()) {
      kernels_.mean_row(line, pixels, gray_line);
      kernels_.sample_plane(gray_line, tx.start.data(), tx.weight.data(), tx.width, width,
                            strip.planes[0] + at);
    } else {
      kernels_.sample_row(line, tx.start.data(), tx.weight.data(), tx.width, width,
                          strip.planes[0] + at, strip.planes[1] + at, strip.planes[2] + at);
    }
  }
}

void Renderer::Color(const View& view, const Strip& strip) {
  for (const ColorChange& change : view.colors) change.paint(change, kernels_, strip);
}

void Renderer::Write(const Strip& strip, const Normalization& by, bool past_cache, uint8_t* out) {
  const size_t n = strip.n, element = ElementSize(format_.dtype);
  // A strip is one piece of the view's memory, or one piece for each plane.
  const size_t pieces = format_.channels_first ? 3 : 1;
  const size_t size = 3 / pieces * n * element;
  for (size_t c = 0; c < pieces; ++c) {
    uint8_t* const target =
        out +
        (format_.channels_first ? c * format_.ViewValues() / 3 + strip.first : 3 * strip.first) *
            element;
    uint8_t* const to = past_cache ? Grown(&staging_, size) : target;
    float* const floats = reinterpret_cast<float*>(to);
    uint16_t* const halves = reinterpret_cast<uint16_t*>(to);
    const float* const* const planes = strip.planes;
    switch (format_.dtype) {
      case DType::kFloat32:
        format_.channels_first ? kernels_.plane_float(planes[c], n, by, c, floats)
                               : kernels_.write_float(planes, n, by, floats);
        break;
      case DType::kFloat16:
        format_.channels_first ? kernels_.plane_half(planes[c], n, by, c, halves)
                               : kernels_.write_half(planes, n, by, halves);
        break;
      case DType::kUint8:
        format_.channels_first ? kernels_.plane_byte(planes[c], n, by, c, to)
                               : kernels_.write_byte(planes, n, by, to);
        break;
    }
    if (past_cache) kernels_.copy_past_cache(to, size, target);
  }
}

// Copies the canvas, which holds the pixels of the upright view `base`, to the place of `view`.
template <typename T>
void Renderer::CopyView(const View& base, const View& view, uint8_t* out) {
  const bool transpose = view.turned;
  const size_t height = static_cast<size_t>(transpose ? format_.width : format_.height);
  const size_t width = static_cast<size_t>(transpose ? format_.height : format_.width);
  // If the view is turned, its rows run along the canvas's columns.
  const bool mirror_rows =
      view.row.reversed != (transpose ? base.SourceX() : base.SourceY()).reversed;
  const bool mirror_columns =
      view.column.reversed != (transpose ? base.SourceY() : base.SourceX()).reversed;
  if (!format_.channels_first) {
    CopyTurned(reinterpret_cast<const Pixel<T, 3>*>(canvas_.data()), height, width, transpose,
               mirror_rows, mirror_columns, reinterpret_cast<Pixel<T, 3>*>(out));
    return;
  }
  for (size_t c = 0; c < 3; ++c) {
    CopyTurned(reinterpret_cast<const Pixel<T, 1>*>(canvas_.data()) + c * height * width, height,
               width, transpose, mirror_rows, mirror_columns,
               reinterpret_cast<Pixel<T, 1>*>(out) + c * height * width);
  }
}

// out[i][j] = in[i'][j'], or in[j'][i'] if transposed. i' and j' run backwards if mirrored.
template <typename P>
void Renderer::CopyTurned(const P* in, size_t height, size_t width, bool transpose,
                          bool mirror_rows, bool mirror_columns, P* out) {
  const size_t rows = transpose ? width : height, columns = transpose ? height : width;
  if (!transpose && !mirror_rows && !mirror_columns) {
    const size_t size = rows * columns * sizeof(P);
    if (past_cache_) {
      kernels_.copy_past_cache(in, size, out);
    } else {
      std::memcpy(out, in, size);
    }
    return;
  }
  P* const tile = reinterpret_cast<P*>(Grown(&staging_, kTile * columns * sizeof(P)));
  for (size_t i0 = 0; i0 < rows; i0 += kTile) {
    const size_t count = std::min(kTile, rows - i0);
    P* const to = past_cache_ ? tile : out + i0 * columns;
    if (transpose) {
      // Down several columns at once, so that all of a cache line is used while it is in the cache.
      const ptrdiff_t step = mirror_rows ? -1 : 1;
      const P* const corner = in + (mirror_rows ? rows - 1 - i0 : i0);
      for (size_t j = 0; j < columns; ++j) {
        const P* from = corner + (mirror_columns ? columns - 1 - j : j) * width;
        for (size_t i = 0; i < count; ++i, from += step) to[i * columns + j] = *from;
      }
    } else {
      for (size_t i = 0; i < count; ++i) {
        const P* const from = in + (mirror_rows ? rows - 1 - i0 - i : i0 + i) * width;
        if (mirror_columns) {
          for (size_t j = 0; j < columns; ++j) to[i * columns + j] = from[columns - 1 - j];
        } else {
          std::memcpy(to + i * columns, from, columns * sizeof(P));
        }
      }
    }
    if (past_cache_)
      kernels_.copy_past_cache(tile, count * columns * sizeof(P), out + i0 * columns);
  }
}

}  // namespace pretexture
