// Decodes the images in TFRecords: JPEGs, and like TensorFlow's decode_jpeg also PNGs.
//
// ImageNet has one PNG among its JPEGs, with the name of a JPEG.
#pragma once

#include <cstdint>

#include "image.h"
#include "jpeg.h"
#include "png_image.h"
#include "span.h"

namespace pretexture {

// Keeps its buffers from image to image. Each thread needs its own.
class ImageDecoder {
 public:
  explicit ImageDecoder(const DecodeOptions& options = {}) : jpeg_(options), png_(options) {}

  // Reads the header. `data` must stay valid until Decode returns. Throws Error.
  ImageSize Open(Span data);
  // Decodes `rect` of the opened image. The pixels belong to the decoder and are valid until the
  // next Open or Settle. `rows` and `plain` are for JPEGs; see JpegDecoder. Throws Error.
  Region Decode(Rect rect, RowPoints* rows = nullptr, bool plain = false);
  // Finds all row points of the opened image; none if it is not a JPEG. See JpegDecoder.
  void FindRows(RowPoints* rows);
  // Frees the memory that an unusually large image took.
  void Settle();

  DecodeCounts counts() const {
    DecodeCounts counts = jpeg_.counts();
    counts.warnings += png_.warnings();
    return counts;
  }

 private:
  JpegDecoder jpeg_;
  PngDecoder png_;
  bool is_png_ = false;
};

}  // namespace pretexture
