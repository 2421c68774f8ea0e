#include "render.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace pretexture {
namespace {

// Values of a plane in a strip: three planes of floats stay in the first-level cache.
constexpr size_t kStripValues = 2048;

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

// out[i][j] = in[i'][j'], or in[j'][i'] where transposed; i' and j' run backwards where mirrored.
template <typename P>
void CopyTurned(const P* in, size_t height, size_t width, bool transpose, bool mirror_rows,
                bool mirror_columns, P* out) {
  const size_t rows = transpose ? width : height, columns = transpose ? height : width;
  if (!transpose) {
    for (size_t i = 0; i < rows; ++i) {
      const P* from = in + (mirror_rows ? rows - 1 - i : i) * width;
      P* to = out + i * columns;
      if (mirror_columns) {
        for (size_t j = 0; j < columns; ++j) to[j] = from[columns - 1 - j];
      } else {
        std::memcpy(to, from, columns * sizeof(P));
      }
    }
    return;
  }
  // In tiles, so that the columns that are read stay in the cache until all of a line is used.
  constexpr size_t kTile = 16;
  for (size_t i0 = 0; i0 < rows; i0 += kTile) {
    const size_t i1 = std::min(rows, i0 + kTile);
    for (size_t j0 = 0; j0 < columns; j0 += kTile) {
      const size_t j1 = std::min(columns, j0 + kTile);
      for (size_t i = i0; i < i1; ++i) {
        const P* from = in + (mirror_rows ? rows - 1 - i : i);
        for (size_t j = j0; j < j1; ++j) {
          out[i * columns + j] = from[(mirror_columns ? columns - 1 - j : j) * width];
        }
      }
    }
  }
}

template <typename T>
void CopyView(const uint8_t* in, const Format& format, bool transpose, bool mirror_rows,
              bool mirror_columns, uint8_t* out) {
  // The canvas and a turned view of it have exchanged sides; all of them are given by the view's.
  const size_t height = static_cast<size_t>(transpose ? format.width : format.height);
  const size_t width = static_cast<size_t>(transpose ? format.height : format.width);
  if (!format.channels_first) {
    CopyTurned(reinterpret_cast<const Pixel<T, 3>*>(in), height, width, transpose, mirror_rows,
               mirror_columns, reinterpret_cast<Pixel<T, 3>*>(out));
    return;
  }
  for (size_t c = 0; c < 3; ++c) {
    CopyTurned(reinterpret_cast<const Pixel<T, 1>*>(in) + c * height * width, height, width,
               transpose, mirror_rows, mirror_columns,
               reinterpret_cast<Pixel<T, 1>*>(out) + c * height * width);
  }
}

bool NeedsWholeView(const View& view) {
  return std::any_of(view.colors.begin(), view.colors.end(), [](const ColorStep& step) {
    return step.kind == ColorStep::Kind::kDistortSlow;
  });
}

}  // namespace

Renderer::Renderer(const Plan& plan, const Format& format, const Kernels& kernels)
    : plan_(plan), format_(format), kernels_(kernels) {}

void Renderer::Render(Span encoded, const Draws& draws, uint8_t* out,
                      std::vector<int32_t>* labels) {
  Stopwatch watch;
  const JpegDecoder::Size size = decoder_.Open(encoded);
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
  watch.Lap(&times.decode);
  for (size_t c = 0; c < canvas_count_; ++c) RenderCanvas(canvases_[c], region, out);
}

void Renderer::FindCanvases() {
  canvas_count_ = 0;
  for (size_t v = 0; v < views_.size(); ++v) {
    const View& view = views_[v];
    if (canvas_count_ > 0) {
      // The views that a rotation makes stand side by side.
      Canvas& last = canvases_[canvas_count_ - 1];
      if (view.SamePixels(views_[last.first_view])) {
        if (last.direct == last.end_view) last.direct = view.turned ? v + 1 : v;
        last.end_view = v + 1;
        continue;
      }
    }
    if (canvases_.size() == canvas_count_) canvases_.emplace_back();
    Canvas& canvas = canvases_[canvas_count_++];
    canvas.first_view = v;
    canvas.end_view = v + 1;
    canvas.direct = view.turned ? v + 1 : v;
  }
  for (size_t c = 0; c < canvas_count_; ++c) {
    Canvas& canvas = canvases_[c];
    const bool upright = canvas.direct != canvas.end_view;
    const View& view = views_[upright ? canvas.direct : canvas.first_view];
    canvas.x.Build(view.SourceX(), view.sampling);
    canvas.y.Build(view.SourceY(), view.sampling);
  }
}

void Renderer::RenderCanvas(const Canvas& canvas, const Region& region, uint8_t* out) {
  const bool upright = canvas.direct != canvas.end_view;
  const View& base = views_[upright ? canvas.direct : canvas.first_view];
  uint8_t* pixels = out + canvas.direct * ViewBytes();
  if (!upright) {
    turned_.resize(ViewBytes());
    pixels = turned_.data();
  }
  RenderPixels(canvas, base, region, pixels);
  Stopwatch watch;
  for (size_t v = canvas.first_view; v < canvas.end_view; ++v) {
    if (v == canvas.direct) continue;
    const View& view = views_[v];
    const bool transpose = view.turned;
    // The view's rows run along the canvas's columns where it is turned.
    const bool mirror_rows =
        view.row.reversed != (transpose ? base.SourceX() : base.SourceY()).reversed;
    const bool mirror_columns =
        view.column.reversed != (transpose ? base.SourceY() : base.SourceX()).reversed;
    uint8_t* to = out + v * ViewBytes();
    switch (format_.dtype) {
      case DType::kFloat32:
        CopyView<uint32_t>(pixels, format_, transpose, mirror_rows, mirror_columns, to);
        break;
      case DType::kFloat16:
        CopyView<uint16_t>(pixels, format_, transpose, mirror_rows, mirror_columns, to);
        break;
      case DType::kUint8:
        CopyView<uint8_t>(pixels, format_, transpose, mirror_rows, mirror_columns, to);
        break;
    }
  }
  watch.Lap(&times.color);
}

void Renderer::RenderPixels(const Canvas& canvas, const View& view, const Region& region,
                            uint8_t* out) {
  const size_t width = static_cast<size_t>(canvas.x.count);
  const int height = canvas.y.count;
  const bool normalize = plan_.normalize && format_.dtype != DType::kUint8;
  const bool standardize = plan_.standardize && format_.dtype != DType::kUint8;
  int rows = static_cast<int>(std::max<size_t>(1, kStripValues / width));
  if (NeedsWholeView(view)) rows = height;
  rows = std::min(rows, height);
  plane_stride_ = static_cast<size_t>(rows) * width;
  if (planes_.size() < 3 * plane_stride_) planes_.resize(3 * plane_stride_);

  const bool through_whole = standardize && format_.dtype == DType::kFloat16;
  if (through_whole) whole_.resize(format_.ViewValues());
  float* const values = through_whole ? whole_.data() : reinterpret_cast<float*>(out);

  double sums[2] = {0, 0};
  float pivot = 0;
  Stopwatch watch;
  for (int y = 0; y < height; y += rows) {
    const int end = std::min(height, y + rows);
    const size_t n = static_cast<size_t>(end - y) * width;
    Resample(canvas, region, y, end);
    watch.Lap(&times.resample);
    Color(view, n);
    for (size_t c = 0; c < 3; ++c) {
      float* const plane = planes_.data() + c * plane_stride_;
      if (normalize) kernels_.affine(plane, n, plan_.scale[c], plan_.bias[c]);
      if (standardize) {
        // Sums of differences from some value of the view lose no digits where it is nearly flat.
        if (y == 0 && c == 0) pivot = plane[0];
        kernels_.moments(plane, n, pivot, sums);
      }
    }
    const size_t first = static_cast<size_t>(y) * width;
    if (standardize) {
      Write(DType::kFloat32, reinterpret_cast<uint8_t*>(values), first, n);
    } else {
      Write(format_.dtype, out, first, n);
    }
    watch.Lap(&times.color);
  }
  if (!standardize) return;
  const size_t n = format_.ViewValues();
  const double mean = sums[0] / double(n);
  const double variance = std::max(0.0, sums[1] / double(n) - mean * mean);
  const double deviation = std::max(std::sqrt(variance), 1 / std::sqrt(double(n)));
  kernels_.standardize(values, n, static_cast<float>(mean + double(pivot)),
                       static_cast<float>(1 / deviation));
  if (through_whole) kernels_.plane_half(values, n, reinterpret_cast<uint16_t*>(out));
  watch.Lap(&times.color);
}

void Renderer::Resample(const Canvas& canvas, const Region& region, int y0, int y1) {
  const Taps &tx = canvas.x, &ty = canvas.y;
  const size_t width = static_cast<size_t>(tx.count);
  const size_t n = static_cast<size_t>(tx.end - tx.begin) * 3;
  if (line_.size() < n + 1) line_.resize(n + 1);
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
    kernels_.blend_rows(rows_.data(), weights_.data(), static_cast<int>(rows_.size()), n,
                        line_.data());
    float* const plane = planes_.data() + static_cast<size_t>(y - y0) * width;
    kernels_.sample_row(line_.data(), tx.start.data(), tx.weight.data(), tx.width, width, plane,
                        plane + plane_stride_, plane + 2 * plane_stride_);
  }
}

void Renderer::Color(const View& view, size_t n) {
  float* const r = planes_.data();
  float* const g = r + plane_stride_;
  float* const b = g + plane_stride_;
  const auto contrast = [&](float factor) {
    for (float* plane : {r, g, b}) {
      double sums[2] = {0, 0};
      kernels_.moments(plane, n, plane[0], sums);
      const double mean = double(plane[0]) + sums[0] / double(n);
      kernels_.contrast(plane, n, static_cast<float>(mean), factor);
    }
  };
  for (const ColorStep& step : view.colors) {
    if (step.kind == ColorStep::Kind::kGray) {
      kernels_.gray(r, g, b, n);
      continue;
    }
    // The orders of the published Inception preprocessing.
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
          kernels_.brightness(r, g, b, n, step.brightness);
          break;
        case kSaturation:
          kernels_.saturation(r, g, b, n, step.saturation);
          break;
        case kHue:
          kernels_.hue(r, g, b, n, step.hue);
          break;
        case kContrast:
          contrast(step.contrast);
          break;
      }
    }
    for (float* plane : {r, g, b}) kernels_.clip(plane, n);
  }
}

void Renderer::Write(DType dtype, uint8_t* out, size_t first, size_t n) const {
  const float* const r = planes_.data();
  const float* const g = r + plane_stride_;
  const float* const b = g + plane_stride_;
  const size_t plane = format_.ViewValues() / 3;
  const float* const planes[3] = {r, g, b};
  switch (dtype) {
    case DType::kFloat32: {
      float* const to = reinterpret_cast<float*>(out);
      if (!format_.channels_first) return kernels_.write_float(r, g, b, n, to + 3 * first);
      for (size_t c = 0; c < 3; ++c) {
        std::memcpy(to + c * plane + first, planes[c], n * sizeof(float));
      }
      return;
    }
    case DType::kFloat16: {
      uint16_t* const to = reinterpret_cast<uint16_t*>(out);
      if (!format_.channels_first) return kernels_.write_half(r, g, b, n, to + 3 * first);
      for (size_t c = 0; c < 3; ++c) kernels_.plane_half(planes[c], n, to + c * plane + first);
      return;
    }
    case DType::kUint8:
      if (!format_.channels_first) return kernels_.write_byte(r, g, b, n, out + 3 * first);
      for (size_t c = 0; c < 3; ++c) kernels_.plane_byte(planes[c], n, out + c * plane + first);
  }
}

}  // namespace pretexture
