// TFRecord files: framing, checksums and random access.
//
// A record is: uint64 length, uint32 masked CRC-32C of the length, data, uint32 masked CRC-32C of
// the data; all little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "error.h"

namespace pretexture {

// An open file. Reads go through pread, not through a memory map: a file that is truncated
// underneath gives an error, not a SIGBUS.
class File {
 public:
  explicit File(const std::string& path);  // Throws Error.
  explicit File(int descriptor);           // Which it owns. Throws Error.
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }
  // Reads up to `size` bytes; fewer only at the end of the file. Throws Error.
  size_t Read(uint64_t offset, uint8_t* data, size_t size) const;

 private:
  int fd_;
  uint64_t size_ = 0;
};

// Where the records of a shard are.
struct ShardIndex {
  std::vector<uint64_t> offsets;  // of the records' first bytes
  std::vector<uint32_t> lengths;  // of their data, bytes
  // Where the framing is broken, the scan ends: `fault` says why, at `fault_offset`; empty if not.
  std::string fault;
  uint64_t fault_offset = 0;
};

ShardIndex ScanShard(const std::string& path);

// Reads the record at `offset` into `buffer` and checks it. Returns its data, `length` bytes within
// the buffer. Throws Error.
const uint8_t* ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                          std::vector<uint8_t>* buffer);

}  // namespace pretexture
