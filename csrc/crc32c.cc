#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

namespace pretexture {
namespace {

// Slicing by 8: table[k][b] is the CRC of byte b followed by k zero bytes.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

Tables MakeTables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t crc = tables[k - 1][b];
      tables[k][b] = (crc >> 8) ^ tables[0][crc & 0xff];
    }
  }
  return tables;
}

uint64_t Load64(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

#if defined(__x86_64__)
#define PRETEXTURE_CRC_INSTRUCTION 1
bool HasInstruction() { return __builtin_cpu_supports("sse4.2"); }

// The instruction takes three cycles, but the processor can start one every cycle. So three
// stretches of data are summed at once, and their sums are joined at the end. To join two sums, the
// first is advanced over a stretch of zeros, which is a linear map of its 32 bits. The map is kept
// as four tables of 256 entries.
constexpr size_t kStretch = 4096;

using ShiftTables = std::array<std::array<uint32_t, 256>, 4>;

ShiftTables MakeShiftTables() {
  const Tables tables = MakeTables();
  std::array<uint32_t, 32> of_bit{};
  for (size_t bit = 0; bit < 32; ++bit) {
    uint32_t crc = uint32_t{1} << bit;
    for (size_t i = 0; i < kStretch; ++i) crc = (crc >> 8) ^ tables[0][crc & 0xff];
    of_bit[bit] = crc;
  }
  ShiftTables shift{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (size_t value = 0; value < 256; ++value) {
      for (size_t bit = 0; bit < 8; ++bit) {
        if (value >> bit & 1) shift[byte][value] ^= of_bit[byte * 8 + bit];
      }
    }
  }
  return shift;
}

uint64_t Shift(const ShiftTables& tables, uint64_t crc) {
  return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^
         tables[3][crc >> 24 & 0xff];
}

__attribute__((target("sse4.2"))) uint32_t Instruction(const uint8_t* data, size_t size) {
  static const ShiftTables shift = MakeShiftTables();
  uint64_t crc = 0xffffffffu;
  for (; size >= 3 * kStretch; size -= 3 * kStretch, data += 3 * kStretch) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStretch; i += 8) {
      crc = _mm_crc32_u64(crc, Load64(data + i));
      second = _mm_crc32_u64(second, Load64(data + kStretch + i));
      third = _mm_crc32_u64(third, Load64(data + 2 * kStretch + i));
    }
    crc = Shift(shift, Shift(shift, crc) ^ second) ^ third;
  }
  for (; size >= 8; size -= 8, data += 8) crc = _mm_crc32_u64(crc, Load64(data));
  uint32_t tail = static_cast<uint32_t>(crc);
  for (; size > 0; --size, ++data) tail = _mm_crc32_u8(tail, *data);
  return ~tail;
}
#elif defined(__aarch64__) && defined(__linux__)
#define PRETEXTURE_CRC_INSTRUCTION 1
bool HasInstruction() { return getauxval(AT_HWCAP) & HWCAP_CRC32; }

__attribute__((target("+crc"))) uint32_t Instruction(const uint8_t* data, size_t size) {
  uint32_t crc = 0xffffffffu;
  for (; size >= 8; size -= 8, data += 8) crc = __crc32cd(crc, Load64(data));
  for (; size > 0; --size, ++data) crc = __crc32cb(crc, *data);
  return ~crc;
}
#endif

}  // namespace

uint32_t Crc32cPortable(Span span) {
  const uint8_t* data = span.data;
  size_t size = span.size;
  static const Tables tables = MakeTables();
  uint32_t crc = 0xffffffffu;
  for (; size >= 8; size -= 8, data += 8) {
    // Byte by byte, so that it works on either byte order.
    crc = tables[7][(crc ^ data[0]) & 0xff] ^ tables[6][((crc >> 8) ^ data[1]) & 0xff] ^
          tables[5][((crc >> 16) ^ data[2]) & 0xff] ^ tables[4][(crc >> 24) ^ data[3]] ^
          tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
  }
  for (; size > 0; --size, ++data) crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xff];
  return ~crc;
}

uint32_t Crc32c(Span data) {
#ifdef PRETEXTURE_CRC_INSTRUCTION
  static const bool instruction = HasInstruction();
  if (instruction) return Instruction(data.data, data.size);
#endif
  return Crc32cPortable(data);
}

}  // namespace pretexture
