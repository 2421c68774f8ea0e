// The row points of a data set's images, in a file beside the index of each shard.
//
// The file is as long as 0.58% of the shard, and the points of a record have a fixed place in it,
// at 0.58% of the record's own. So nothing is held in memory, and one read finds them. What they
// say is only used if it is known to be about this image: they come with the checksum of its
// record, and with one of their own.
//
// New points go to a temporary file. Once a shard has enough of them, its file is written anew,
// with the old points and the new ones, under a temporary name, and renamed. So readers in any
// process see a whole file, and of two that write at once, one loses its points, which are found
// again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "image.h"
#include "records.h"
#include "row_points.h"
#include "shard_files.h"
#include "span.h"

namespace pretexture {

// Where the row index is.
struct RowIndexFiles {
  std::vector<std::string> paths;  // by shard; empty if there is no row index
  std::string folder;              // of all these files
};

// A number for an image in a record; another image, or one of another record, has another one.
// `crc` is the checksum of the record's `data`, and `image` is a part of them.
uint32_t ImageKey(uint32_t crc, Span data, Span image);

// Thread-safe.
class RowIndex {
 public:
  // `records` must outlive it. `workers` is the number of processes that share the records.
  RowIndex(RowIndexFiles files, const Records& records, uint32_t workers);
  ~RowIndex();
  RowIndex(const RowIndex&) = delete;
  RowIndex& operator=(const RowIndex&) = delete;

  // Sets `points` to what is known about an image, perhaps nothing. Returns false if the record is
  // too small for points.
  bool Read(size_t shard, uint32_t record, uint32_t image, RowPoints* points);
  // Keeps the points of an image, and sometimes writes the shard's file.
  void Add(size_t shard, uint32_t record, uint32_t image, const RowPoints& points);
  // Writes the files of all shards with new points, for about so long at most.
  void Write(std::chrono::milliseconds patience);
  // What went wrong since the last call, so that no new points are kept; empty if nothing did.
  std::string TakeFault();

 private:
  // The bytes of a record's points in its shard's file, after the header.
  struct Slot {
    uint64_t begin;
    size_t size;
  };
  Slot SlotOf(uint32_t record) const;
  int OpenFile(size_t shard) const;
  bool Prepare();
  void WriteShard(size_t shard);
  void Merge(size_t shard, int to) const;
  void Fail(const std::string& what, int error);

  const RowIndexFiles where_;
  const Records& records_;
  const uint32_t workers_;
  std::vector<uint64_t> begin_;  // [shards + 1]: where the slots of each shard are in `new_`
  ShardFiles files_;
  std::unique_ptr<std::atomic<bool>[]> missing_;        // by shard: whether there is no file
  std::unique_ptr<std::atomic<uint32_t>[]> unwritten_;  // by shard: images with new points
  std::atomic<bool> failed_{false};
  std::atomic<int> new_{-1};  // the temporary file; -1 until it is needed
  std::mutex prepare_, write_, fault_mutex_;
  std::string fault_;
};

// Numbers of images.
struct RowCounts {
  uint64_t with = 0;     // points
  uint64_t without = 0;  // because they are small, damaged, or not sequential JPEGs
};

// Finds the points of all images of a shard, on `threads` threads, and writes its file. Throws
// Unavailable if the shard cannot be read, or the file cannot be written.
RowCounts IndexRows(RowIndexFiles files, const Records& records, size_t shard, int threads,
                    const DecodeOptions& options);

}  // namespace pretexture
