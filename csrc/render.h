// From an encoded image to its views in a batch's buffer.
//
// Only the region that the views need is decoded, and each view is resampled directly from it. A
// view is resampled, coloured, normalised and written strip by strip, so that the data in work stay
// in the cache.
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

// The type and layout of the values of one array of a batch: [records, views, height, width, 3], or
// with `channels_first` [records, views, 3, height, width].
struct Format {
  DType dtype = DType::kFloat32;
  bool channels_first = false;
  int views = 1, height = 0, width = 0;

  // These must not be called if BatchBytes(1) throws.
  size_t ViewValues() const { return size_t{3} * static_cast<size_t>(height) * width; }
  size_t RecordBytes() const { return views * ViewValues() * ElementSize(dtype); }
  // Throws Error if that is more than can be addressed.
  size_t BatchBytes(size_t records) const {
    return CheckedProduct({records, static_cast<size_t>(views), 3, static_cast<size_t>(height),
                           static_cast<size_t>(width), ElementSize(dtype)});
  }
};

// A branch of a pipeline, whose views become one array of the batch.
struct Branch {
  Plan plan;
  Format format;
};

// Nanoseconds spent in the stages of rendering.
struct RenderTimes {
  uint64_t decode = 0;
  uint64_t resample = 0;
  uint64_t color = 0;  // with normalising, writing and turning
};

// Renders records, with buffers that it keeps from one record to the next. Each thread needs its
// own.
class Renderer {
 public:
  // `branches` and `kernels` must outlive the Renderer. `past_cache` makes it write with stores
  // that bypass the cache, which is faster for batches that are larger than the cache.
  Renderer(const std::vector<Branch>& branches, const Kernels& kernels, bool past_cache,
           const DecodeOptions& options = {});

  // Renders the views of an encoded image: those of branch b to the RecordBytes() bytes of its
  // format at out[b]. Sets `labels` to the labels that a pretext task gives the image, and uses
  // `rows` as JpegDecoder does. Throws Error.
  void Render(Span encoded, const Draws& draws, uint8_t* const* out, std::vector<int32_t>* labels,
              RowPoints* rows = nullptr);

  // Frees the memory that an unusually large image took.
  void Settle() { decoder_.Settle(); }

  RenderTimes times;  // of all records since the caller last reset it
  DecodeCounts decode_counts() const { return decoder_.counts(); }

 private:
  // The views first_view..end_view-1 of a branch, which show the same pixels, turned or mirrored.
  // They are rendered once and copied.
  struct Canvas {
    Taps x, y;
    size_t first_view, end_view;

    size_t width() const { return static_cast<size_t>(x.count); }
    size_t height() const { return static_cast<size_t>(y.count); }
    size_t strip_rows() const;
  };
  // A branch with the views that it has drawn.
  struct Drawn {
    const Plan* plan;
    Format format;
    std::vector<View> views;
    std::vector<Canvas> canvases;
    size_t canvas_count = 0;

    // Standardizing comes with normalising, which uint8 leaves to the user.
    bool Standardizes() const { return plan->standardize && format.dtype != DType::kUint8; }
    Normalization PlannedNormalization() const;
    size_t ViewBytes() const { return format.ViewValues() * ElementSize(format.dtype); }
    void FindCanvases();
  };
  // The memory for some rows of a view, or for all of them.
  struct Planes;
  // The mean and the deviation of the values of a view.
  class Statistics;
  // Renders the pixels of one canvas.
  class Painter;

  // Makes the region grey if that is less work than to make each row of the branch's views grey.
  void MakeGray(const Drawn& branch, const Region& region);
  // The kernel that makes a row grey.
  auto GrayRow(uint32_t order) const {
    return order == op::Gray::kLuma ? kernels_.luma_row : kernels_.mean_row;
  }
  void RenderCanvas(const Drawn& branch, const Canvas& canvas, const Region& region, uint8_t* out);
  template <typename T>
  void CopyView(const Format& format, const View& base, const View& view, uint8_t* out);
  template <typename P>
  void CopyTurned(const P* in, size_t height, size_t width, bool transpose, bool mirror_rows,
                  bool mirror_columns, P* out);

  const Kernels& kernels_;
  const bool past_cache_;
  ImageDecoder decoder_;
  std::vector<Drawn> branches_;
  std::vector<float> line_;           // a blended row of source pixels
  std::vector<float> gray_line_;      // the grey of its pixels
  std::vector<float> gray_;           // the grey of the region, row by row
  uint32_t gray_order_ = 0;           // the kind of grey, if gray_ is not empty
  std::vector<float> planes_;         // see Planes
  std::vector<float> blurred_;        // planes that are blurred down
  std::vector<float> padded_;         // a row that is blurred across, with its surroundings
  std::vector<const float*> taps_;    // rows that are blurred, or grey rows that are blended
  std::vector<float> tap_weights_;    // of these, from the middle on
  std::vector<const uint8_t*> rows_;  // that are blended to a line
  std::vector<float> weights_;        // of those rows
  std::vector<uint8_t> canvas_;       // what several views are copied from
  std::vector<uint8_t> staging_;      // final values that are about to be copied past the cache
};

}  // namespace pretexture
