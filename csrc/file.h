// Open files, and how many of them a process keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "error.h"

namespace pretexture {

// An open file. Reads go through pread, not through a memory map: a file that is truncated
// underneath gives an error, not a SIGBUS.
//
// What the system refuses is `Unavailable`: nothing is known of what is in the file.
class File {
 public:
  // If the process has no descriptor left, closes files that a `ShardFiles` keeps and tries again.
  explicit File(const std::string& path);  // Throws Unavailable.
  explicit File(int descriptor);           // Which it owns. Throws Unavailable.
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }
  // Reads up to `size` bytes; fewer only at the end of the file. Throws Unavailable.
  size_t Read(uint64_t offset, uint8_t* data, size_t size) const;

 private:
  int fd_;
  uint64_t size_ = 0;
};

// The shards of one reader, of which the most recently opened are kept open.
//
// All `ShardFiles` of a process share one limit: half of the descriptors that the process may have
// (RLIMIT_NOFILE), and at most 4,096. Beyond it the file that has been open for longest is closed,
// whoever opened it. Thread-safe.
class ShardFiles {
 public:
  // `open` opens a shard and returns its descriptor, which is then the caller's; several threads
  // call it at once, and it may take its time. If empty, shards are the files at `paths`.
  ShardFiles(std::vector<std::string> paths, std::function<int(size_t)> open);
  ~ShardFiles();
  ShardFiles(const ShardFiles&) = delete;
  ShardFiles& operator=(const ShardFiles&) = delete;

  // The shard's file. It stays open for as long as the caller keeps it. Throws Unavailable.
  std::shared_ptr<File> Get(size_t shard);
  // Closes the shard's file as soon as nobody reads it, and opens it anew when it is needed.
  void Forget(size_t shard);
  void ForgetAll();

  // Closes the file that has been open for longest, of any reader; false if none is kept.
  static bool CloseOldest();

 private:
  struct Registry;
  struct Kept;
  static Registry& Shared();

  const std::vector<std::string> paths_;
  const std::function<int(size_t)> open_;
  std::vector<Kept> kept_;  // by shard
};

}  // namespace pretexture
