// From an encoded image to the views in a batch's buffer: decode the region that the views need,
// resample each view straight from it, then colour, normalise and write strip by strip, so that
// what is worked on stays in the cache.
#pragma once

#include <cstdint>
#include <vector>

#include "jpeg.h"
#include "kernels.h"
#include "plan.h"

namespace pretexture {

enum class DType { kFloat32, kFloat16, kUint8 };

inline size_t ElementSize(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kFloat16 ? 2 : 1;
}

// The shape of a record's part of a batch.
struct Format {
  DType dtype = DType::kFloat32;
  bool channels_first = false;
  int views = 1, height = 0, width = 0;

  size_t ViewValues() const { return size_t{3} * static_cast<size_t>(height) * width; }
  size_t RecordBytes() const { return views * ViewValues() * ElementSize(dtype); }
};

// Where the time of rendering went, nanoseconds.
struct RenderTimes {
  uint64_t decode = 0;
  uint64_t resample = 0;
  uint64_t color = 0;  // and normalising, writing, turning
};

// Renders records with buffers that it keeps from one to the next. Not thread-safe: one a thread.
class Renderer {
 public:
  Renderer(const Plan& plan, const Format& format, const Kernels& kernels);

  // Writes format.views views to `out` and the labels that a pretext task sets to `labels`.
  // Throws Error.
  void Render(Span encoded, const Draws& draws, uint8_t* out, std::vector<int32_t>* labels);

  RenderTimes times;
  uint64_t warnings() const { return decoder_.warnings(); }

 private:
  // Views that show the same pixels, turned or mirrored: one of them is rendered, the others copied
  // from it.
  struct Canvas {
    Taps x, y;
    size_t first_view, end_view;
    size_t direct;  // the view that is rendered in place; end_view if all of them are turned
  };

  void FindCanvases();
  void RenderCanvas(const Canvas& canvas, const Region& region, uint8_t* out);
  void RenderPixels(const Canvas& canvas, const View& view, const Region& region, uint8_t* out);
  void Resample(const Canvas& canvas, const Region& region, int y0, int y1);
  void Color(const View& view, size_t n);
  // Writes the strip's n pixels to a view from its pixel `first` on.
  void Write(DType dtype, uint8_t* out, size_t first, size_t n) const;
  size_t ViewBytes() const { return format_.ViewValues() * ElementSize(format_.dtype); }

  const Plan& plan_;
  const Format format_;
  const Kernels& kernels_;
  JpegDecoder decoder_;
  std::vector<View> views_;
  std::vector<Canvas> canvases_;
  size_t canvas_count_ = 0;
  std::vector<float> line_;     // a blended row of source pixels
  std::vector<float> planes_;   // a strip's red, green and blue
  size_t plane_stride_ = 0;
  std::vector<const uint8_t*> rows_;
  std::vector<float> weights_;
  std::vector<float> whole_;     // a view in float, where float16 needs its statistics first
  std::vector<uint8_t> turned_;  // a canvas of which no view is upright
};

}  // namespace pretexture
