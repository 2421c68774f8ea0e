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

__attribute__((target("sse4.2"))) uint32_t Instruction(const uint8_t* data, size_t size) {
  uint64_t crc = 0xffffffffu;
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

uint32_t Crc32cPortable(const uint8_t* data, size_t size) {
  static const Tables tables = MakeTables();
  uint32_t crc = 0xffffffffu;
  for (; size >= 8; size -= 8, data += 8) {
    // Byte by byte, so that it holds on either byte order.
    crc = tables[7][(crc ^ data[0]) & 0xff] ^ tables[6][((crc >> 8) ^ data[1]) & 0xff] ^
          tables[5][((crc >> 16) ^ data[2]) & 0xff] ^ tables[4][(crc >> 24) ^ data[3]] ^
          tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
  }
  for (; size > 0; --size, ++data) crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xff];
  return ~crc;
}

uint32_t Crc32c(const uint8_t* data, size_t size) {
#ifdef PRETEXTURE_CRC_INSTRUCTION
  static const bool instruction = HasInstruction();
  if (instruction) return Instruction(data, size);
#endif
  return Crc32cPortable(data, size);
}

}  // namespace pretexture
