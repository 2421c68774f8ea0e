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

bool NeedsView(const ColorChange& change) { return change.needs != Needs::kNothing; }

// Whether none of these changes gives a grey view colours.
bool KeepsGray(const std::vector<ColorChange>& colors) {
  return std::none_of(colors.begin(), colors.end(),
                      [](const ColorChange& change) { return change.colors_gray; });
}

// Whether a view with these changes is grey from the start to the end.
bool StaysGray(const std::vector<ColorChange>& colors) {
  return !colors.empty() && colors[0].makes_gray && KeepsGray(colors);
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

Renderer::Renderer(const std::vector<Branch>& branches, const Kernels& kernels, bool past_cache,
                   const DecodeOptions& options)
    : kernels_(kernels), past_cache_(past_cache), decoder_(options) {
  for (const Branch& branch : branches) {
    branch.format.BatchBytes(1);  // throws if the sizes of a record overflow
    branches_.emplace_back();
    branches_.back().plan = &branch.plan;
    branches_.back().format = branch.format;
  }
}

void Renderer::Render(Span encoded, const Draws& draws, uint8_t* const* out,
                      std::vector<int32_t>* labels, RowPoints* rows) {
  Stopwatch watch;
  const ImageSize size = decoder_.Open(encoded);
  labels->clear();
  Rect rect{size.width, size.height, 0, 0};
  for (size_t b = 0; b < branches_.size(); ++b) {
    Drawn& branch = branches_[b];
    Draws own = draws;
    own.branch = static_cast<uint32_t>(b);
    branch.plan->Draw(size.height, size.width, own, &branch.views, labels);
    branch.FindCanvases();
    for (size_t c = 0; c < branch.canvas_count; ++c) {
      const Canvas& canvas = branch.canvases[c];
      rect.x0 = std::min(rect.x0, canvas.x.begin);
      rect.x1 = std::max(rect.x1, canvas.x.end);
      rect.y0 = std::min(rect.y0, canvas.y.begin);
      rect.y1 = std::max(rect.y1, canvas.y.end);
    }
  }
  const Region region = decoder_.Decode(rect, rows);
  // It comes before all splits of the image, so it is the same in all views.
  if (branches_[0].views[0].wrapped_gray) WrapGray(region);
  watch.Lap(&times.decode);
  for (size_t b = 0; b < branches_.size(); ++b) {
    const Drawn& branch = branches_[b];
    MakeGray(branch, region);
    watch.Lap(&times.resample);
    for (size_t c = 0; c < branch.canvas_count; ++c) {
      RenderCanvas(branch, branch.canvases[c], region, out[b]);
    }
  }
  if (past_cache_) kernels_.fence();
}

void Renderer::MakeGray(const Drawn& branch, const Region& region) {
  gray_.clear();
  const auto width = static_cast<size_t>(region.rect.width());
  const auto height = static_cast<size_t>(region.rect.height());
  size_t pixels = 0;
  for (size_t c = 0; c < branch.canvas_count; ++c) {
    const Canvas& canvas = branch.canvases[c];
    const std::vector<ColorChange>& colors = branch.views[canvas.first_view].colors;
    if (!StaysGray(colors)) continue;
    pixels += canvas.height() * static_cast<size_t>(canvas.x.end - canvas.x.begin);
    gray_order_ = colors[0].order;
  }
  if (pixels <= width * height) return;
  gray_.resize(width * height);
  float* const line = Grown(&line_, 3 * width);
  const float weight = 1;
  for (size_t y = 0; y < height; ++y) {
    const uint8_t* const row = region.Row(region.rect.y0 + static_cast<int>(y));
    kernels_.blend_rows(&row, &weight, 1, 3 * width, line);
    GrayRow(gray_order_)(line, width, gray_.data() + y * width);
  }
}

void Renderer::Drawn::FindCanvases() {
  canvas_count = 0;
  for (size_t v = 0; v < views.size(); ++v) {
    const View& view = views[v];
    // The views that a rotation makes are next to each other.
    if (canvas_count > 0 && view.SamePixels(views[canvases[canvas_count - 1].first_view])) {
      canvases[canvas_count - 1].end_view = v + 1;
      continue;
    }
    if (canvases.size() == canvas_count) canvases.emplace_back();
    Canvas& canvas = canvases[canvas_count++];
    canvas.first_view = v;
    canvas.end_view = v + 1;
    canvas.x.Build(view.SourceX(), view.sampling);
    canvas.y.Build(view.SourceY(), view.sampling);
  }
}

Normalization Renderer::Drawn::PlannedNormalization() const {
  Normalization by;
  if (plan->normalize && format.dtype != DType::kUint8) {
    std::copy_n(plan->scale.data(), 3, by.factor);
    std::copy_n(plan->bias.data(), 3, by.bias);
  }
  return by;
}

// Rows are worked on together as long as their planes stay in the first-level cache.
size_t Renderer::Canvas::strip_rows() const {
  return std::min(height(), std::max<size_t>(1, kStripValues / width()));
}

struct Renderer::Planes {
  float* start;
  size_t width;   // of a row
  size_t stride;  // from one plane to the next; 0 if the view is grey

  // The planes begin at different places of a memory page, so that writing one of them does not
  // delay the others.
  Planes(std::vector<float>* memory, size_t rows, size_t row_width, bool gray) : width(row_width) {
    const size_t apart = rows * width / kPage * kPage + kPage + kPage / 3;
    start = Grown(memory, 3 * apart);
    stride = gray ? 0 : apart;
  }

  // The strip of `count` rows that lie `offset` rows from the start, for the view's rows from `y`
  // on.
  Strip At(size_t offset, size_t y, size_t count) const {
    float* const r = start + offset * width;
    return {{r, r + stride, r + 2 * stride}, count * width, y * width, width};
  }
};

class Renderer::Statistics {
 public:
  void Add(const Kernels& kernels, const Strip& strip) {
    // Sums of differences from one of the values stay exact even if the view is nearly flat.
    if (strip.first == 0) pivot_ = strip.planes[0][0];
    strip.Each([&](const float* plane) { kernels.moments(plane, strip.n, pivot_, sums_); });
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

// A view is resampled, coloured and written strip by strip. If one of the changes of its colours
// needs the whole view, all strips are kept, and another pass over them begins with that change.
class Renderer::Painter {
 public:
  Painter(Renderer* renderer, const Drawn& branch, const Canvas& canvas, const Region& region,
          bool past_cache, uint8_t* out)
      : r_(*renderer),
        kernels_(renderer->kernels_),
        branch_(branch),
        canvas_(canvas),
        colors_(branch.views[canvas.first_view].colors),
        region_(region),
        past_cache_(past_cache),
        out_(out),
        height_(canvas.height()),
        rows_(canvas.strip_rows()),
        keeps_gray_(KeepsGray(colors_)),
        normalization_(branch.PlannedNormalization()) {}

  void Paint() {
    // If a view is grey from the start, only one channel is resampled and coloured.
    const bool gray = StaysGray(colors_);
    auto begin = colors_.begin() + (gray ? 1 : 0);
    auto end = std::find_if(begin, colors_.end(), NeedsView);
    Planes planes(&r_.planes_, Kept(end) ? height_ : rows_, canvas_.width(), gray);
    bool stays_gray = Pass(begin, end, [&](size_t y, size_t count) {
      const Strip strip = planes.At(Kept(end) ? y : 0, y, count);
      Resample(y, strip);
      watch_.Lap(&r_.times.resample);
      return strip;
    });
    while (end != colors_.end()) {
      if (stays_gray) planes.stride = 0;
      const ColorChange& change = *end;
      begin = end + 1;
      end = std::find_if(begin, colors_.end(), NeedsView);
      if (change.needs == Needs::kMeans) {
        const Means means = TakeMeans(stays_gray);
        stays_gray = Pass(begin, end, [&](size_t y, size_t count) {
          const Strip strip = planes.At(y, y, count);
          change.paint(change, kernels_, strip, means);
          return strip;
        });
      } else {
        const Planes blurred(&r_.blurred_, Kept(end) ? height_ : rows_, canvas_.width(),
                             stays_gray);
        // BlurAcross has left the weights of this blur.
        const std::vector<float> weights = r_.tap_weights_;
        stays_gray = Pass(begin, end, [&](size_t y, size_t count) {
          const Strip strip = blurred.At(Kept(end) ? y : 0, y, count);
          BlurDown(planes, weights, y, strip);
          return strip;
        });
        planes = blurred;
        std::swap(r_.planes_, r_.blurred_);
      }
    }
    if (branch_.Standardizes()) {
      if (stays_gray) planes.stride = 0;
      normalization_ = statistics_.Standardization(branch_.format.ViewValues(), normalization_);
      for (size_t y = 0; y < height_; y += rows_) {
        Write(planes.At(y, y, std::min(rows_, height_ - y)));
      }
    }
    watch_.Lap(&r_.times.color);
  }

 private:
  using Change = std::vector<ColorChange>::const_iterator;

  // Whether strips are kept after a pass up to the change `end`.
  bool Kept(Change end) const { return end != colors_.end() || branch_.Standardizes(); }

  // Makes the changes begin..end-1 to every strip that `load` gives, and then what the next pass
  // needs. Returns whether the view is grey now.
  template <typename Load>
  bool Pass(Change begin, Change end, Load load) {
    bool gray = false;
    if (end != colors_.end() && end->needs == Needs::kNeighbors) FindTapWeights(*end);
    for (size_t y = 0; y < height_; y += rows_) {
      Strip strip = load(y, std::min(rows_, height_ - y));
      for (auto change = begin; change != end; ++change) {
        change->paint(*change, kernels_, strip, {});
        if (change->makes_gray && !strip.gray()) SpreadGray(&strip);
      }
      if (end != colors_.end()) {
        if (end->needs == Needs::kMeans) {
          for (size_t c = 0; c < strip.distinct(); ++c) {
            sums_[c] += kernels_.sum(strip.planes[c], strip.n);
          }
        } else {
          BlurAcross(strip);
        }
      } else if (branch_.Standardizes()) {
        statistics_.Add(kernels_, strip);
      } else {
        Write(strip);
      }
      gray = strip.gray();
      watch_.Lap(&r_.times.color);
    }
    return gray;
  }

  // From the first plane to all of them.
  void SpreadGray(Strip* strip) const {
    for (size_t c = 1; c < 3; ++c) {
      if (keeps_gray_) {
        strip->planes[c] = strip->planes[0];
      } else {
        std::copy_n(strip->planes[0], strip->n, strip->planes[c]);
      }
    }
  }

  Means TakeMeans(bool gray) {
    Means means;
    for (size_t c = 0; c < 3; ++c) {
      means[c] = static_cast<float>(sums_[gray ? 0 : c] / double(height_ * canvas_.width()));
    }
    sums_ = {};
    return means;
  }

  void Resample(size_t first, const Strip& strip);
  void FindTapWeights(const ColorChange& blur);
  void BlurAcross(const Strip& strip);
  void BlurDown(const Planes& from, const std::vector<float>& weights, size_t first,
                const Strip& strip);
  void Write(const Strip& strip);

  Renderer& r_;
  const Kernels& kernels_;
  const Drawn& branch_;
  const Canvas& canvas_;
  const std::vector<ColorChange>& colors_;
  const Region& region_;
  const bool past_cache_;
  uint8_t* const out_;
  const size_t height_, rows_;
  const bool keeps_gray_;
  Normalization normalization_;
  std::array<double, 3> sums_{};  // of the values of each channel
  Statistics statistics_;
  Stopwatch watch_;
};

void Renderer::Painter::Resample(size_t first, const Strip& strip) {
  const Taps &tx = canvas_.x, &ty = canvas_.y;
  const size_t pixels = static_cast<size_t>(tx.end - tx.begin);
  float* const line = Grown(&r_.line_, 3 * pixels + 1);
  float* const gray_line = Grown(&r_.gray_line_, pixels);
  const auto inset = static_cast<size_t>(tx.begin - region_.rect.x0);
  const bool from_gray = strip.gray() && !r_.gray_.empty() && r_.gray_order_ == colors_[0].order;
  const auto gray_width = static_cast<size_t>(region_.rect.width());
  for (size_t at = 0, y = first; at < strip.n; at += strip.width, ++y) {
    r_.rows_.clear();
    r_.taps_.clear();
    r_.weights_.clear();
    for (int k = 0; k < ty.width; ++k) {
      const float weight = ty.weight[static_cast<size_t>(k * ty.count) + y];
      if (weight == 0) continue;
      const int row = ty.begin + ty.start[y] + k;
      r_.weights_.push_back(weight);
      if (from_gray) {
        const auto above = static_cast<size_t>(row - region_.rect.y0);
        r_.taps_.push_back(r_.gray_.data() + above * gray_width + inset);
      } else {
        r_.rows_.push_back(region_.Row(row) + 3 * inset);
      }
    }
    const int rows = static_cast<int>(r_.weights_.size());
    if (from_gray) {
      kernels_.blend_planes(r_.taps_.data(), r_.weights_.data(), rows, pixels, gray_line);
    } else {
      kernels_.blend_rows(r_.rows_.data(), r_.weights_.data(), rows, 3 * pixels, line);
    }
    if (!strip.gray()) {
      kernels_.sample_row(line, tx.start.data(), tx.weight.data(), tx.width, strip.width,
                          strip.planes[0] + at, strip.planes[1] + at, strip.planes[2] + at);
      continue;
    }
    if (!from_gray) r_.GrayRow(colors_[0].order)(line, pixels, gray_line);
    kernels_.sample_plane(gray_line, tx.start.data(), tx.weight.data(), tx.width, strip.width,
                          strip.planes[0] + at);
  }
}

// The weights of the taps from the middle on. The outermost are left out as long as all of them
// together could not change a value of [0, 255] by a thousandth.
void Renderer::Painter::FindTapWeights(const ColorChange& blur) {
  constexpr double kNegligible = 1e-6;
  const double sigma = double(blur.amounts[0]);
  const auto gauss = [&](int k) { return std::exp(-0.5 * (k / sigma) * (k / sigma)); };
  double sum = gauss(0);
  for (int k = 1; k <= blur.radius; ++k) sum += 2 * gauss(k);
  int radius = blur.radius;
  for (double rest = 0; radius > 0; --radius) {
    rest += 2 * gauss(radius) / sum;
    if (rest > kNegligible) break;
  }
  r_.tap_weights_.clear();
  for (int k = 0; k <= radius; ++k) r_.tap_weights_.push_back(static_cast<float>(gauss(k) / sum));
}

// Each row, in place. Beyond the edges it is mirrored at the outermost pixels.
void Renderer::Painter::BlurAcross(const Strip& strip) {
  const size_t width = strip.width, radius = r_.tap_weights_.size() - 1;
  float* const padded = Grown(&r_.padded_, width + 2 * radius);
  r_.taps_.clear();
  for (size_t k = 0; k <= 2 * radius; ++k) r_.taps_.push_back(padded + k);
  strip.Each([&](float* plane) {
    for (float* row = plane; row < plane + strip.n; row += width) {
      std::copy_n(row, width, padded + radius);
      for (size_t k = 1; k <= radius; ++k) {
        padded[radius - k] = row[k];
        padded[radius + width - 1 + k] = row[width - 1 - k];
      }
      kernels_.filter(r_.taps_.data(), r_.tap_weights_.data(), static_cast<int>(radius), width,
                      row);
    }
  });
}

// The rows of a strip from `first` on, from all rows of planes that are blurred across.
void Renderer::Painter::BlurDown(const Planes& from, const std::vector<float>& weights,
                                 size_t first, const Strip& strip) {
  const auto radius = static_cast<ptrdiff_t>(weights.size()) - 1;
  const auto last = static_cast<ptrdiff_t>(height_) - 1;
  for (size_t c = 0; c < strip.distinct(); ++c) {
    const float* const plane = from.start + c * from.stride;
    auto y = static_cast<ptrdiff_t>(first);
    for (size_t at = 0; at < strip.n; at += strip.width, ++y) {
      r_.taps_.clear();
      for (ptrdiff_t k = y - radius; k <= y + radius; ++k) {
        const ptrdiff_t mirrored = k < 0 ? -k : k > last ? 2 * last - k : k;
        r_.taps_.push_back(plane + static_cast<size_t>(mirrored) * strip.width);
      }
      kernels_.filter(r_.taps_.data(), weights.data(), static_cast<int>(radius), strip.width,
                      strip.planes[c] + at);
    }
  }
}

void Renderer::Painter::Write(const Strip& strip) {
  const Format& format = branch_.format;
  const size_t n = strip.n, element = ElementSize(format.dtype);
  // A strip is one piece of the view's memory, or one piece for each plane.
  const size_t pieces = format.channels_first ? 3 : 1;
  const size_t size = 3 / pieces * n * element;
  for (size_t c = 0; c < pieces; ++c) {
    uint8_t* const target =
        out_ +
        (format.channels_first ? c * format.ViewValues() / 3 + strip.first : 3 * strip.first) *
            element;
    uint8_t* const to = past_cache_ ? Grown(&r_.staging_, size) : target;
    float* const floats = reinterpret_cast<float*>(to);
    uint16_t* const halves = reinterpret_cast<uint16_t*>(to);
    const float* const* const planes = strip.planes;
    const Normalization& by = normalization_;
    switch (format.dtype) {
      case DType::kFloat32:
        format.channels_first ? kernels_.plane_float(planes[c], n, by, c, floats)
                              : kernels_.write_float(planes, n, by, floats);
        break;
      case DType::kFloat16:
        format.channels_first ? kernels_.plane_half(planes[c], n, by, c, halves)
                              : kernels_.write_half(planes, n, by, halves);
        break;
      case DType::kUint8:
        format.channels_first ? kernels_.plane_byte(planes[c], n, by, c, to)
                              : kernels_.write_byte(planes, n, by, to);
        break;
    }
    if (past_cache_) kernels_.copy_past_cache(to, size, target);
  }
}

void Renderer::RenderCanvas(const Drawn& branch, const Canvas& canvas, const Region& region,
                            uint8_t* out) {
  const View& base = branch.views[canvas.first_view];
  const size_t bytes = branch.ViewBytes();
  if (canvas.end_view - canvas.first_view == 1 && !base.turned) {
    Painter(this, branch, canvas, region, past_cache_, out + canvas.first_view * bytes).Paint();
    return;
  }
  Painter(this, branch, canvas, region, false, Grown(&canvas_, bytes)).Paint();
  Stopwatch watch;
  for (size_t v = canvas.first_view; v < canvas.end_view; ++v) {
    const View& view = branch.views[v];
    switch (branch.format.dtype) {
      case DType::kFloat32:
        CopyView<uint32_t>(branch.format, base, view, out + v * bytes);
        break;
      case DType::kFloat16:
        CopyView<uint16_t>(branch.format, base, view, out + v * bytes);
        break;
      case DType::kUint8:
        CopyView<uint8_t>(branch.format, base, view, out + v * bytes);
        break;
    }
  }
  watch.Lap(&times.color);
}

// Copies the canvas, which holds the pixels of the upright view `base`, to the place of `view`.
template <typename T>
void Renderer::CopyView(const Format& format, const View& base, const View& view, uint8_t* out) {
  const bool transpose = view.turned;
  const size_t height = static_cast<size_t>(transpose ? format.width : format.height);
  const size_t width = static_cast<size_t>(transpose ? format.height : format.width);
  // If the view is turned, its rows run along the canvas's columns.
  const bool mirror_rows =
      view.row.reversed != (transpose ? base.SourceX() : base.SourceY()).reversed;
  const bool mirror_columns =
      view.column.reversed != (transpose ? base.SourceY() : base.SourceX()).reversed;
  if (!format.channels_first) {
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
