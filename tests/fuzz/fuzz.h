// Helpers that all fuzz targets use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "image.h"

namespace pretexture {
namespace fuzz {

using Bytes = std::vector<uint8_t>;

// Ends the run if `good` is false. libFuzzer then keeps the input as a finding.
inline void Require(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  std::abort();
}

// Takes small numbers from the end of the input. The rest is the file under test.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t Byte() { return size_ > 0 ? data_[--size_] : 0; }
  // The rest, in memory of exactly its size, so that ASan sees a read beyond it.
  Bytes Rest() const { return Bytes(data_, data_ + size_); }

 private:
  const uint8_t* data_;
  size_t size_;
};

// A region that is chosen before the size of the image is known.
struct RegionChoice {
  bool all_columns, all_rows;
  int x0, x1, y0, y1;  // 0 or more

  Rect Of(int width, int height) const {
    Rect rect{0, 0, width, height};
    if (!all_columns) {
      rect.x0 = x0 % width;
      rect.x1 = rect.x0 + 1 + x1 % (width - rect.x0);
    }
    if (!all_rows) {
      rect.y0 = y0 % height;
      rect.y1 = rect.y0 + 1 + y1 % (height - rect.y0);
    }
    return rect;
  }
};

inline RegionChoice ChooseRegion(Choices* choices) {
  const uint8_t all = choices->Byte();
  RegionChoice region{(all & 1) != 0, (all & 2) != 0, 0, 0, 0, 0};
  for (int* edge : {&region.x0, &region.x1, &region.y0, &region.y1}) *edge = choices->Byte();
  return region;
}

}  // namespace fuzz
}  // namespace pretexture
