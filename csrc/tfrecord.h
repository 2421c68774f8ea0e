// TFRecord files: finding the records, and reading one.
//
// A record is a uint64 length, a uint32 masked CRC-32C of the length, the data, and a uint32 masked
// CRC-32C of the data, all little-endian.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "file.h"
#include "scratch.h"
#include "span.h"

namespace pretexture {

// Where the records of a shard are.
struct ShardIndex {
  std::vector<uint64_t> offsets;  // of each record's first byte, from the start of the file
  std::vector<uint32_t> lengths;  // of each record's data, bytes
  // Why the scan ended before the end of the file, and at which offset. Empty if it did not.
  std::string fault;
  uint64_t fault_offset = 0;
  // Whether the scan ended because the file could not be read, whatever its contents are.
  bool unavailable = false;
};

// Finds the records of the shard at `path` from their headers. Returns early, with the records
// found so far, once `stop` is true.
ShardIndex ScanShard(const std::string& path, const std::atomic<bool>* stop = nullptr);

// A shard whose scan ended before the end of the file.
struct ShardFault {
  size_t shard;  // its place among the paths
  uint64_t offset;
  std::string reason;
  bool unavailable;  // as in ShardIndex
};

// Where the records of several shards are, one shard after the other.
struct RecordIndex {
  std::vector<uint64_t> offsets;  // by record
  std::vector<uint32_t> lengths;  // by record
  std::vector<uint64_t> counts;   // records by shard
  std::vector<ShardFault> faults;
};

// Scans shards on `threads` threads, or fewer if the system has no more. Calls `keep_on` about
// twenty times a second on the calling thread; once that returns false, the scans end and the
// result is incomplete. Throws Unavailable if not even one thread can be started.
RecordIndex ScanShards(const std::vector<std::string>& paths, int threads,
                       const std::function<bool()>& keep_on);

// What a file is that is not what was expected, "a TFRecord file", say, and what to do about it.
// `start` is the beginning of the file. Returns an empty string if the kind of file is unknown.
std::string KindOfFile(Span start, const std::string& expected);

// Reads the record at `offset` into `buffer` and returns its data, `length` bytes within the
// buffer. Throws Error if the checksum is wrong, and Unavailable if the file has changed since it
// was indexed.
Span ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                Scratch* buffer);

// The masked checksum that the file has for the data that ReadRecord returned.
uint32_t StoredCrc(Span data);

}  // namespace pretexture
