#include "shard_files.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <utility>

namespace pretexture {
namespace {

constexpr size_t kMostOpen = 4096;

}  // namespace

struct ShardFiles::Kept {
  std::shared_ptr<File> file;
  uint32_t forgotten = 0;               // number of calls of Forget
  std::list<Kept*>::iterator position;  // in Registry::open, if there is a file
};

// The open files of all ShardFiles, under one lock, which is held for a few instructions per
// record. Fork handlers take that lock, so a forked child finds the registry in a sound state.
struct ShardFiles::Registry {
  std::mutex mutex;
  std::list<Kept*> open;  // in the order in which they were opened

  // Removes a file and returns it, so that the caller closes it after releasing the lock.
  std::shared_ptr<File> Drop(Kept* kept) {
    open.erase(kept->position);
    return std::exchange(kept->file, nullptr);
  }

  static size_t Limit() {
    rlimit limit = {};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMostOpen;
    return std::clamp<size_t>(static_cast<size_t>(limit.rlim_cur / 2), 1, kMostOpen);
  }
};

ShardFiles::Registry& ShardFiles::Shared() {
  static Registry* const registry = [] {
    // Never destroyed, because threads may outlive static objects.
    static Registry* made = new Registry;
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                   [] { made->mutex.unlock(); });
    return made;
  }();
  return *registry;
}

ShardFiles::ShardFiles(std::vector<std::string> paths, ShardOpener opener)
    : paths_(std::move(paths)), opener_(std::move(opener)), kept_(paths_.size()) {}

ShardFiles::~ShardFiles() { ForgetAll(); }

std::shared_ptr<File> ShardFiles::Get(size_t shard) {
  Registry& registry = Shared();
  Kept& kept = kept_[shard];
  uint32_t forgotten;
  {
    const std::lock_guard<std::mutex> lock(registry.mutex);
    if (kept.file) return kept.file;
    forgotten = kept.forgotten;
  }
  // Without the lock: opening may take long, and other shards are read in the meantime.
  auto file =
      opener_ ? std::make_shared<File>(opener_(shard)) : std::make_shared<File>(paths_[shard]);
  std::vector<std::shared_ptr<File>> dropped;  // closed after the lock is released
  const std::lock_guard<std::mutex> lock(registry.mutex);
  if (kept.file) return kept.file;  // Another thread has opened it meanwhile.
  if (kept.forgotten == forgotten) {
    for (const size_t limit = Registry::Limit(); registry.open.size() >= limit;) {
      dropped.push_back(registry.Drop(registry.open.front()));
    }
    kept.file = file;
    kept.position = registry.open.insert(registry.open.end(), &kept);
  }
  return file;
}

void ShardFiles::Forget(size_t shard) {
  Registry& registry = Shared();
  std::shared_ptr<File> dropped;  // closed after the lock is released
  const std::lock_guard<std::mutex> lock(registry.mutex);
  ++kept_[shard].forgotten;
  if (kept_[shard].file) dropped = registry.Drop(&kept_[shard]);
}

void ShardFiles::ForgetAll() {
  for (size_t shard = 0; shard < kept_.size(); ++shard) Forget(shard);
}

bool ShardFiles::CloseOldest() {
  Registry& registry = Shared();
  std::shared_ptr<File> oldest;  // closed after the lock is released
  const std::lock_guard<std::mutex> lock(registry.mutex);
  if (registry.open.empty()) return false;
  oldest = registry.Drop(registry.open.front());
  return true;
}

}  // namespace pretexture
