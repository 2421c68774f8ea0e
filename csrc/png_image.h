// PNG decoding with libpng, with the pixels of TensorFlow's decode_png(channels=3).
#pragma once

#include <cstdint>
#include <memory>

#include "image.h"
#include "span.h"

namespace pretexture {

// Keeps its buffer from image to image. Not thread-safe: one a thread.
class PngDecoder {
 public:
  explicit PngDecoder(const DecodeOptions& options = {});
  ~PngDecoder();
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  // As `ImageDecoder`. Palettes and greys become RGB, an alpha channel is left out, and of 16 bits
  // the upper 8 are kept. What is below the region is not read.
  ImageSize Open(Span data);
  Region Decode(Rect rect);
  void Settle();

  uint64_t warnings() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pretexture
