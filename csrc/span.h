// Bytes that someone else owns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pretexture {

struct Span {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

}  // namespace pretexture
