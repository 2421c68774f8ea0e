// Types that all image decoders share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pretexture {

// A rectangle of pixels: columns x0..x1-1 and rows y0..y1-1.
struct Rect {
  int x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  int width() const { return x1 - x0; }
  int height() const { return y1 - y0; }
};

struct ImageSize {
  int width, height;
};

// Decoded pixels of a region, RGB interleaved. Its coordinates are those of the whole image.
struct Region {
  uint8_t* pixels = nullptr;  // of (rect.x0, rect.y0); the decoder owns them
  size_t stride = 0;          // bytes from row to row
  Rect rect;

  const uint8_t* Row(int y) const { return pixels + static_cast<size_t>(y - rect.y0) * stride; }
};

// What happened in all images so far.
struct DecodeCounts {
  uint64_t warnings = 0;      // of the libraries, such as extraneous bytes before a marker
  uint64_t jumps = 0;         // to a known row of a JPEG
  uint64_t bytes_jumped = 0;  // coded data that were not read
};

// How images are decoded, and a limit on their size: a file of a few hundred bytes can claim any
// size.
struct DecodeOptions {
  uint64_t max_pixels = 100'000'000;        // width x height
  const std::atomic<bool>* stop = nullptr;  // once true, decoding ends with an Error
  bool fast_dct = false;                    // libjpeg's fast integer DCT, as TensorFlow by default

  bool Stopped() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
  // Throws Error if an image of this size is too large. `kind` is its name in the message.
  void Check(const char* kind, uint64_t width, uint64_t height) const;
};

}  // namespace pretexture
