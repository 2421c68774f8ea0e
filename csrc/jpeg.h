// Region decoding with libjpeg-turbo, bit-identical to a full decode and a crop.
//
// jpeg_crop_scanline and jpeg_skip_scanlines skip what a region does not need. Chroma upsampling
// uses neighbouring pixels, so the edge columns of a region would differ from a full decode. One
// more iMCU column on either side makes them the same.
#pragma once

#include <cstdint>
#include <memory>

#include "image.h"
#include "span.h"

namespace pretexture {

// Keeps its decompressor and its buffer from image to image. Each thread needs its own.
class JpegDecoder {
 public:
  explicit JpegDecoder(const DecodeOptions& options = {});
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header. `data` must begin like a JPEG and must stay valid until Decode returns.
  // Throws Error.
  ImageSize Open(Span data);

  // Decodes `rect` of the opened image. The pixels belong to the decoder and are valid until the
  // next Open or Settle. As in TensorFlow, greyscale, CMYK and YCCK become RGB, the EXIF
  // orientation is ignored, and if a marker ends the data early, the rest of the image is grey and
  // a warning is counted. Throws Error, also if the data end before the region does.
  //
  // With `plain`, libjpeg decodes everything, which tests compare with.
  Region Decode(Rect rect, bool plain = false);

  // Frees the memory that an unusually large image took.
  void Settle();

  // Number of libjpeg's warnings, such as extraneous bytes before a marker, in all images so far.
  uint64_t warnings() const;

  // Number of images that HuffmanDecoder gave up on, and libjpeg decoded from the start.
  uint64_t given_up() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pretexture
