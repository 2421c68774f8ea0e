// CRC-32C (Castagnoli), the checksum that TFRecord files use.
#pragma once

#include <cstdint>

#include "span.h"

namespace pretexture {

// The checksum of `data`. Uses the processor's CRC instruction if it has one (x86-64: SSE 4.2; ARM:
// the CRC extension).
uint32_t Crc32c(Span data);

// The same, computed from tables on any processor.
uint32_t Crc32cPortable(Span data);

// The form in which TFRecord stores a checksum: rotated and offset, because the CRC of data that
// contain their own CRC is weak.
inline uint32_t MaskCrc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace pretexture
