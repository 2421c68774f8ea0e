#include "file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>

namespace pretexture {
namespace {

constexpr size_t kMostOpen = 4096;

std::string Reason(const char* what, int error) {
  return std::string(what) + ": " + std::strerror(error);
}

// Without O_NONBLOCK, to open a pipe is to wait for its writer.
int Open(const std::string& path) {
  for (;;) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) return fd;
    const int error = errno;
    if (error == EINTR) continue;
    if ((error == EMFILE || error == ENFILE) && ShardFiles::CloseOldest()) continue;
    throw Unavailable(Reason("cannot open", error));
  }
}

}  // namespace

File::File(const std::string& path) : File(Open(path)) {}

File::File(int descriptor) : fd_(descriptor) {
  struct stat status = {};
  std::string reason;
  if (fstat(fd_, &status) != 0) {
    reason = Reason("cannot read", errno);
  } else if (!S_ISREG(status.st_mode)) {
    reason =
        S_ISDIR(status.st_mode) ? "cannot read: is a folder" : "cannot read: is not a regular file";
  }
  if (!reason.empty()) {
    close(fd_);
    throw Unavailable(reason);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() { close(fd_); }

size_t File::Read(uint64_t offset, uint8_t* data, size_t size) const {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = pread(fd_, data + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Unavailable(Reason("cannot read", errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

struct ShardFiles::Kept {
  std::shared_ptr<File> file;
  uint32_t forgotten = 0;               // how often
  std::list<Kept*>::iterator position;  // in the registry, if there is a file
};

// One lock for all readers: it is held for a few instructions a record, and a forked child finds
// the registry whole.
struct ShardFiles::Registry {
  std::mutex mutex;
  std::list<Kept*> open;  // the one that was opened first comes first

  // Takes a file out and returns it, so that it can be closed after the lock is released.
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
    static Registry* made = new Registry;  // never destroyed: threads may outlive static objects
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                   [] { made->mutex.unlock(); });
    return made;
  }();
  return *registry;
}

ShardFiles::ShardFiles(std::vector<std::string> paths, std::function<int(size_t)> open)
    : paths_(std::move(paths)), open_(std::move(open)), kept_(paths_.size()) {}

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
  // Without the lock, because opening may take its time and other shards are read meanwhile.
  auto file = open_ ? std::make_shared<File>(open_(shard)) : std::make_shared<File>(paths_[shard]);
  std::vector<std::shared_ptr<File>> dropped;  // closed after the lock is released
  const std::lock_guard<std::mutex> lock(registry.mutex);
  if (kept.file) return kept.file;  // Another thread was faster.
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
