// A view of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pretexture {

// Bytes that someone else owns and keeps alive.
struct Span {
  const uint8_t* data = nullptr;
  size_t size = 0;

  // Whether the `length` bytes of `magic` are at offset `at`.
  bool Has(const char* magic, size_t length, size_t at = 0) const {
    return size >= at + length && std::memcmp(data + at, magic, length) == 0;
  }
};

}  // namespace pretexture
