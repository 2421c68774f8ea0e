#include "render.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace pretexture {
namespace {

// Values of a plane in a strip: three planes of floats stay in the first-level cache.
constexpr size_t kStripValues = 2048;
// Floats in a page of memory.
constexpr size_t kPage = 1024;
// Rows of a turned view that are put together at a time.
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

bool NeedsWholeView(const View& view) {
  return std::any_of(view.colors.begin(), view.colors.end(), [](const ColorStep& step) {
    return step.kind == ColorStep::Kind::kDistortSlow;
  });
}

template <typename T>
T* Grown(std::vector<T>* buffer, size_t size) {
  if (buffer->size() < size) buffer->resize(size);
  return buffer->data();
}

// As TensorFlow's mean of three bytes, which adds them up in a byte.
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

Renderer::Renderer(const Plan& plan, const Format& format, const Kernels& kernels, bool stream,
                   const DecodeOptions& options)
    : plan_(plan), format_(format), kernels_(kernels), stream_(stream), decoder_(options) {
  format_.BatchBytes(1);  // may throw
}

void Renderer::Render(Span encoded, const Draws& draws, uint8_t* out,
                      std::vector<int32_t>* labels) {
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
  const Region region = decoder_.Decode(rect);
  // Of one draw: it comes before what splits an image.
  if (views_[0].wrapped_gray) WrapGray(region);
  watch.Lap(&times.decode);
  for (size_t c = 0; c < canvas_count_; ++c) RenderCanvas(canvases_[c], region, out);
  if (stream_) kernels_.fence();
}

void Renderer::FindCanvases() {
  canvas_count_ = 0;
  for (size_t v = 0; v < views_.size(); ++v) {
    const View& view = views_[v];
    // The views that a rotation makes stand side by side.
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
    RenderPixels(canvas, base, region, stream_, out + canvas.first_view * ViewBytes());
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

void Renderer::RenderPixels(const Canvas& canvas, const View& view, const Region& region,
                            bool stream, uint8_t* out) {
  const size_t width = static_cast<size_t>(canvas.x.count);
  const size_t height = static_cast<size_t>(canvas.y.count);
  const size_t rows = std::min(height, std::max<size_t>(1, kStripValues / width));
  const bool standardize = plan_.standardize && format_.dtype != DType::kUint8;
  const bool whole_color = NeedsWholeView(view);
  const bool normalize = plan_.normalize && format_.dtype != DType::kUint8;
  // Statistics over channels that are normalised differently.
  const bool uneven = standardize && normalize && !plan_.NormalizesEvenly();
  // Of a view that is grey from the start one channel is resampled and coloured.
  const bool gray =
      !view.colors.empty() && view.colors[0].kind == ColorStep::Kind::kGray && !uneven;
  // Where a view's statistics are needed, all of its strips are kept; else one after the other
  // takes the same place.
  const bool keep = standardize || whole_color;
  // The planes start at different places of a memory page: writing one does not hold up the others.
  const size_t stride = (keep ? height : rows) * width / kPage * kPage + kPage + kPage / 3;
  float* const planes = Grown(&planes_, 3 * stride);
  const auto strip_at = [&](size_t y, size_t count) {
    float* const r = planes + (keep ? y * width : 0);
    const size_t step = gray ? 0 : stride;
    return Strip{{r, r + step, r + 2 * step}, count * width, y * width};
  };

  Normalization by;
  if (normalize && !uneven) {
    std::copy_n(plan_.scale.data(), 3, by.factor);
    std::copy_n(plan_.bias.data(), 3, by.bias);
  }

  double sums[2] = {0, 0};
  float pivot = 0;
  // Sums of differences from some value of the view lose no digits where it is nearly flat.
  const auto measure = [&](const Strip& strip) {
    for (size_t c = 0; uneven && c < 3; ++c) {
      kernels_.affine(strip.planes[c], strip.n, plan_.scale[c], plan_.bias[c]);
    }
    if (strip.first == 0) pivot = strip.planes[0][0];
    for (size_t c = 0; c < strip.distinct(); ++c) {
      kernels_.moments(strip.planes[c], strip.n, pivot, sums);
    }
  };

  Stopwatch watch;
  for (size_t y = 0; y < height; y += rows) {
    const size_t end = std::min(height, y + rows);
    const Strip strip = strip_at(y, end - y);
    Resample(canvas, region, static_cast<int>(y), static_cast<int>(end), strip);
    watch.Lap(&times.resample);
    if (!whole_color) Color(view, strip);
    if (!keep) Write(strip, by, stream, out);
    if (standardize && !whole_color) measure(strip);
    watch.Lap(&times.color);
  }
  if (!keep) return;
  if (whole_color) {
    const Strip whole = strip_at(0, height);
    Color(view, whole);
    if (standardize) measure(whole);
  }
  if (standardize) {
    // Of x * scale + bias: the mean is mean * scale + bias, the deviation deviation * |scale|.
    const double n = double(format_.ViewValues()), seen = gray ? n / 3 : n;
    const double mean = sums[0] / seen;
    const double scale = double(by.factor[0]);
    const double deviation =
        std::sqrt(std::max(0.0, sums[1] / seen - mean * mean)) * std::abs(scale);
    const double factor = scale / std::max(deviation, 1 / std::sqrt(n));
    for (size_t c = 0; c < 3; ++c) {
      by.centre[c] = static_cast<float>(mean + double(pivot));
      by.factor[c] = static_cast<float>(factor);
      by.bias[c] = 0;
    }
  }
  for (size_t y = 0; y < height; y += rows) {
    Write(strip_at(y, std::min(rows, height - y)), by, stream, out);
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
  const auto [r, g, b] = strip.planes;
  const size_t n = strip.n;
  const bool gray = strip.gray();
  const auto each = [&](auto change) {
    for (size_t c = 0; c < strip.distinct(); ++c) change(strip.planes[c]);
  };
  for (const ColorStep& step : view.colors) {
    if (step.kind == ColorStep::Kind::kGray) {
      if (!gray) kernels_.gray(r, g, b, n);
      continue;
    }
    if (step.kind == ColorStep::Kind::kDistort && !gray) {
      kernels_.distort(r, g, b, n, step.brightness, step.saturation, step.order == 0);
      continue;
    }
    // The orders of the published Inception preprocessing. Saturation and hue leave grey as it is.
    enum { kBrightness, kSaturation, kHue, kContrast };
    static constexpr int kFast[2][2] = {{kBrightness, kSaturation}, {kSaturation, kBrightness}};
    static constexpr int kSlow[4][4] = {{kBrightness, kSaturation, kHue, kContrast},
                                        {kSaturation, kBrightness, kContrast, kHue},
                                        {kContrast, kHue, kBrightness, kSaturation},
                                        {kHue, kSaturation, kContrast, kBrightness}};
    const bool fast = step.kind == ColorStep::Kind::kDistort;
    const int* const order = fast ? kFast[step.order] : kSlow[step.order];
    for (int i = 0; i < (fast ? 2 : 4); ++i) {
      switch (order[i]) {
        case kBrightness:
          each([&](float* plane) { kernels_.brightness(plane, n, step.brightness); });
          break;
        case kSaturation:
          if (!gray) kernels_.saturation(r, g, b, n, step.saturation);
          break;
        case kHue:
          if (!gray) kernels_.hue(r, g, b, n, step.hue);
          break;
        case kContrast:
          each([&](float* plane) {
            double sums[2] = {0, 0};
            kernels_.moments(plane, n, plane[0], sums);
            const double mean = double(plane[0]) + sums[0] / double(n);
            kernels_.contrast(plane, n, static_cast<float>(mean), step.contrast);
          });
          break;
      }
    }
    each([&](float* plane) { kernels_.clip(plane, n); });
  }
}

void Renderer::Write(const Strip& strip, const Normalization& by, bool stream, uint8_t* out) {
  const size_t n = strip.n, element = ElementSize(format_.dtype);
  // One piece of the view's memory, or one for each plane.
  const size_t pieces = format_.channels_first ? 3 : 1;
  const size_t size = 3 / pieces * n * element;
  for (size_t c = 0; c < pieces; ++c) {
    uint8_t* const target =
        out +
        (format_.channels_first ? c * format_.ViewValues() / 3 + strip.first : 3 * strip.first) *
            element;
    uint8_t* const to = stream ? Grown(&staging_, size) : target;
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
    if (stream) kernels_.stream(to, size, target);
  }
}

// Copies the canvas, which lies as the upright `base` does, to its place as `view`.
template <typename T>
void Renderer::CopyView(const View& base, const View& view, uint8_t* out) {
  const bool transpose = view.turned;
  const size_t height = static_cast<size_t>(transpose ? format_.width : format_.height);
  const size_t width = static_cast<size_t>(transpose ? format_.height : format_.width);
  // The view's rows run along the canvas's columns where it is turned.
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

// out[i][j] = in[i'][j'], or in[j'][i'] where transposed; i' and j' run backwards where mirrored.
template <typename P>
void Renderer::CopyTurned(const P* in, size_t height, size_t width, bool transpose,
                          bool mirror_rows, bool mirror_columns, P* out) {
  const size_t rows = transpose ? width : height, columns = transpose ? height : width;
  if (!transpose && !mirror_rows && !mirror_columns) {
    const size_t size = rows * columns * sizeof(P);
    if (stream_) {
      kernels_.stream(in, size, out);
    } else {
      std::memcpy(out, in, size);
    }
    return;
  }
  P* const tile = reinterpret_cast<P*>(Grown(&staging_, kTile * columns * sizeof(P)));
  for (size_t i0 = 0; i0 < rows; i0 += kTile) {
    const size_t count = std::min(kTile, rows - i0);
    P* const to = stream_ ? tile : out + i0 * columns;
    if (transpose) {
      // Down the columns side by side, so that all of a cache line is used while it is there.
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
    if (stream_) kernels_.stream(tile, count * columns * sizeof(P), out + i0 * columns);
  }
}

}  // namespace pretexture
