// From an encoded image to the views in a batch's buffer: decode the region that the views need,
// resample each view straight from it, then colour, normalise and write strip by strip, so that
// what is worked on stays in the cache.
#pragma once

#include <cstdint>
#include <vector>

#include "decoder.h"
#include "kernels.h"
#include "plan.h"
#include "sizes.h"

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
  // Throws Error if that is more than can be addressed; then the others may not be called.
  size_t BatchBytes(size_t records) const {
    return CheckedProduct({records, static_cast<size_t>(views), 3, static_cast<size_t>(height),
                           static_cast<size_t>(width), ElementSize(dtype)});
  }
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
  // `stream`: write past the cache, for batches that no cache would hold.
  Renderer(const Plan& plan, const Format& format, const Kernels& kernels, bool stream,
           const DecodeOptions& options = {});

  // Writes format.views views to `out` and the labels that a pretext task sets to `labels`.
  // Throws Error.
  void Render(Span encoded, const Draws& draws, uint8_t* out, std::vector<int32_t>* labels);

  // Gives back the memory that an unusually large image took.
  void Settle() { decoder_.Settle(); }

  RenderTimes times;
  uint64_t warnings() const { return decoder_.warnings(); }

 private:
  // Views that show the same pixels, turned or mirrored, are rendered once and copied.
  struct Canvas {
    Taps x, y;
    size_t first_view, end_view;
  };
  // Part of a view: planes of n values each. Where the view is grey they are one and the same.
  struct Strip {
    float* planes[3];
    size_t n;
    size_t first;  // pixel of the view

    bool gray() const { return planes[0] == planes[1]; }
    size_t distinct() const { return gray() ? 1 : 3; }
  };

  void FindCanvases();
  void RenderCanvas(const Canvas& canvas, const Region& region, uint8_t* out);
  void RenderPixels(const Canvas& canvas, const View& view, const Region& region, bool stream,
                    uint8_t* out);
  void Resample(const Canvas& canvas, const Region& region, int y0, int y1, const Strip& strip);
  void Color(const View& view, const Strip& strip);
  void Write(const Strip& strip, const Normalization& by, bool stream, uint8_t* out);
  template <typename T>
  void CopyView(const View& base, const View& view, uint8_t* out);
  template <typename P>
  void CopyTurned(const P* in, size_t height, size_t width, bool transpose, bool mirror_rows,
                  bool mirror_columns, P* out);
  size_t ViewBytes() const { return format_.ViewValues() * ElementSize(format_.dtype); }

  const Plan& plan_;
  const Format format_;
  const Kernels& kernels_;
  const bool stream_;
  ImageDecoder decoder_;
  std::vector<View> views_;
  std::vector<Canvas> canvases_;
  size_t canvas_count_ = 0;
  std::vector<float> line_;       // a blended row of source pixels
  std::vector<float> gray_line_;  // the same, the mean of its channels
  std::vector<float> planes_;     // a strip, or a whole view where its statistics are needed
  std::vector<const uint8_t*> rows_;
  std::vector<float> weights_;
  std::vector<uint8_t> canvas_;   // what several views are copied from
  std::vector<uint8_t> staging_;  // values in their final form, on their way past the cache
};

}  // namespace pretexture
