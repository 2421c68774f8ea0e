// Decodes the images that TFRecords hold: JPEGs, and as TensorFlow's decode_jpeg does, PNGs.
//
// ImageNet has one PNG among its JPEGs, under the name of a JPEG.
#pragma once

#include <cstdint>

#include "image.h"
#include "jpeg.h"
#include "png_image.h"
#include "span.h"

namespace pretexture {

// Keeps its buffers from image to image. Not thread-safe: one a thread.
class ImageDecoder {
 public:
  explicit ImageDecoder(const DecodeOptions& options = {}) : jpeg_(options), png_(options) {}

  // Reads the header; `data` must stay until Decode returns. Throws Error.
  ImageSize Open(Span data);
  // Decodes `rect` of the opened image. The pixels are valid until the next Open or Settle.
  // With `plain`, all of a JPEG by libjpeg: for comparisons. Throws Error.
  Region Decode(Rect rect, bool plain = false);
  // Gives back the memory that an unusually large image took.
  void Settle();

  // What the decoders complained of without failing, in all images so far.
  uint64_t warnings() const { return jpeg_.warnings() + png_.warnings(); }

 private:
  JpegDecoder jpeg_;
  PngDecoder png_;
  bool is_png_ = false;
};

}  // namespace pretexture
