// The open files of shards, and a limit on how many a process keeps open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "file.h"

namespace pretexture {

// Opens a shard, named by its number, and returns a file descriptor that the caller then owns.
// Several threads call it at once, and it may block, for example to fetch the shard. Throws
// Unavailable.
using ShardOpener = std::function<int(size_t shard)>;

// The shards of one reader. Files are opened when they are first read and stay open.
//
// All ShardFiles of a process share one limit: half of the descriptors that the process may have
// (RLIMIT_NOFILE), and at most 4,096. At the limit, the file that was opened first is closed,
// whichever ShardFiles opened it. Thread-safe.
class ShardFiles {
 public:
  // If `opener` is empty, the shards are the files at `paths`.
  ShardFiles(std::vector<std::string> paths, ShardOpener opener);
  ~ShardFiles();
  ShardFiles(const ShardFiles&) = delete;
  ShardFiles& operator=(const ShardFiles&) = delete;

  // The file of a shard. It stays open for as long as the caller holds the pointer. Throws
  // Unavailable.
  std::shared_ptr<File> Get(size_t shard);
  // Closes the shard's file as soon as nobody reads it. The next Get opens it again.
  void Forget(size_t shard);
  void ForgetAll();

  // Closes the file that was opened first, of any ShardFiles. Returns false if none is open.
  static bool CloseOldest();

 private:
  struct Registry;
  struct Kept;
  static Registry& Shared();

  const std::vector<std::string> paths_;
  const ShardOpener opener_;
  std::vector<Kept> kept_;  // by shard
};

}  // namespace pretexture
