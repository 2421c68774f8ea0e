// Region decoding with libjpeg-turbo, bit-identical to a full decode and a crop.
//
// jpeg_crop_scanline and jpeg_skip_scanlines leave out what a region does not need. Chroma
// upsampling looks at neighbours, so that a region's edge columns come out different from a full
// decode's; one iMCU column more on either side makes them the same.
#pragma once

#include <cstdint>
#include <memory>

#include "image.h"
#include "span.h"

namespace pretexture {

// Keeps its decompressor and its buffer from image to image. Not thread-safe: one a thread.
class JpegDecoder {
 public:
  explicit JpegDecoder(const DecodeOptions& options = {});
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header; `data`, which begins as a JPEG does, must stay until Decode returns. Throws
  // Error.
  ImageSize Open(Span data);

  // Decodes `rect` of the opened image. The pixels are valid until the next Open or Settle. As in
  // TensorFlow, greyscale, CMYK and YCCK become RGB, EXIF orientation is left alone, and what a
  // marker cuts short is grey, with a warning. Throws Error, also if the data end before the region
  // does.
  //
  // With `plain`, all of it by libjpeg: for tests.
  Region Decode(Rect rect, bool plain = false);

  // Gives back the memory that an unusually large image took.
  void Settle();

  // What libjpeg complained of without failing (such as extraneous bytes before a marker), in all
  // images so far.
  uint64_t warnings() const;

  // How many images libjpeg had to decode from the start since their streams were not sound.
  uint64_t given_up() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pretexture
