// TFRecord files: framing, checksums and random access.
//
// A record is: uint64 length, uint32 masked CRC-32C of the length, data, uint32 masked CRC-32C of
// the data; all little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file.h"
#include "scratch.h"

namespace pretexture {

// Where the records of a shard are.
struct ShardIndex {
  std::vector<uint64_t> offsets;  // of the records' first bytes
  std::vector<uint32_t> lengths;  // of their data, bytes
  // Where the framing is broken, the scan ends: `fault` says why, at `fault_offset`; empty if not.
  std::string fault;
  uint64_t fault_offset = 0;
  // Whether the scan ended because the file could not be read, whatever is in it.
  bool unavailable = false;
};

ShardIndex ScanShard(const std::string& path);

// Reads the record at `offset` into `buffer` and checks it. Returns its data, `length` bytes within
// the buffer. Throws Error, and Unavailable if the file is no longer the one that was indexed.
const uint8_t* ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                          Scratch* buffer);

}  // namespace pretexture
