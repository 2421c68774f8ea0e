#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"
#include "shard_files.h"

namespace pretexture {
namespace {

std::string Reason(const char* what, int error) {
  return std::string(what) + ": " + std::strerror(error);
}

// O_NONBLOCK, because opening a pipe would otherwise wait for its writer.
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
#ifdef __APPLE__
  const timespec& modified = status.st_mtimespec;
#else
  const timespec& modified = status.st_mtim;
#endif
  modified_ = int64_t{modified.tv_sec} * 1'000'000'000 + modified.tv_nsec;
}

File::~File() { close(fd_); }

size_t ReadAt(int descriptor, uint64_t offset, uint8_t* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got =
        pread(descriptor, data + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Unavailable(Reason("cannot read", errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

}  // namespace pretexture
