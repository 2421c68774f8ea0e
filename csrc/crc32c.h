// CRC-32C (Castagnoli), with which TFRecord frames its lengths and its data.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pretexture {

// With the processor's CRC instruction where it has one (x86-64: SSE 4.2; ARM: the CRC extension).
uint32_t Crc32c(const uint8_t* data, size_t size);

// The same from tables, on any processor.
uint32_t Crc32cPortable(const uint8_t* data, size_t size);

// TFRecord stores checksums rotated and offset, so that data that contain a checksum of themselves
// do not confuse it.
inline uint32_t MaskCrc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace pretexture
