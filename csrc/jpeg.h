// Region decoding with libjpeg-turbo, bit-identical to a full decode and a crop.
//
// jpeg_crop_scanline and jpeg_skip_scanlines leave out what a region does not need. Chroma
// upsampling looks at neighbours, so that a region's edge columns come out different from a full
// decode's; one iMCU column more on either side makes them the same.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "example.h"

namespace pretexture {

// Half-open: columns x0..x1-1 and rows y0..y1-1.
struct Rect {
  int x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  int width() const { return x1 - x0; }
  int height() const { return y1 - y0; }
};

// Decoded pixels of a region, RGB interleaved, in the coordinates of the whole image.
struct Region {
  const uint8_t* pixels = nullptr;  // of (rect.x0, rect.y0)
  size_t stride = 0;                // bytes from row to row
  Rect rect;

  const uint8_t* Row(int y) const { return pixels + static_cast<size_t>(y - rect.y0) * stride; }
};

// Keeps its decompressor and its buffer from image to image. Not thread-safe: one a thread.
class JpegDecoder {
 public:
  JpegDecoder();
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  struct Size {
    int width, height;
  };

  // Reads the header; `data` must stay until Decode returns. Throws Error.
  Size Open(Span data);

  // Decodes `rect` of the opened image. The pixels are valid until the next Open. As in TensorFlow,
  // greyscale, CMYK and YCCK become RGB, EXIF orientation is left alone, and what a marker cuts
  // short is grey, with a warning. Throws Error, also where the data end before the region does.
  //
  // With `plain`, all of it by libjpeg: for tests.
  Region Decode(Rect rect, bool plain = false);

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
