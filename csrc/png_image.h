// PNG decoding with libpng, with the pixels of TensorFlow's decode_png(channels=3).
#pragma once

#include <cstdint>
#include <memory>

#include "image.h"
#include "span.h"

namespace pretexture {

// Keeps its buffer from image to image. Each thread needs its own.
class PngDecoder {
 public:
  explicit PngDecoder(const DecodeOptions& options = {});
  ~PngDecoder();
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  // These do what the functions of ImageDecoder do. Palettes and grey become RGB, an alpha channel
  // is dropped, and of 16 bits the upper 8 are kept. Rows below the region are not read.
  ImageSize Open(Span data);
  Region Decode(Rect rect);
  void Settle();

  uint64_t warnings() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pretexture
