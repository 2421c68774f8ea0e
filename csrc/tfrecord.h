// TFRecord files: framing, checksums and random access.
//
// A record is: uint64 length, uint32 masked CRC-32C of the length, data, uint32 masked CRC-32C of
// the data; all little-endian.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
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

// Where `stop` becomes true, the scan ends with what it has.
ShardIndex ScanShard(const std::string& path, const std::atomic<bool>* stop = nullptr);

// The scans of many shards, on threads. Several times a second `keep_on` is asked; once it says
// false, the scans end and so does this.
std::vector<ShardIndex> ScanShards(const std::vector<std::string>& paths, int threads,
                                   const std::function<bool()>& keep_on);

// What a file is that does not begin as a TFRecord does, from its first bytes, with what to do
// about it; empty if it is not known.
std::string KindOfFile(const uint8_t* data, size_t size);

// Reads the record at `offset` into `buffer` and checks it. Returns its data, `length` bytes within
// the buffer. Throws Error, and Unavailable if the file is no longer the one that was indexed.
const uint8_t* ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                          Scratch* buffer);

}  // namespace pretexture
