// A file for fuzz targets that read files.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "fuzz.h"

namespace pretexture {
namespace fuzz {

// A file in memory, so that no test waits for a disk.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("input", MFD_CLOEXEC)) {
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  void Write(const Bytes& data) {
    const auto size = static_cast<off_t>(data.size());
    Require(ftruncate(fd_, 0) == 0 && pwrite(fd_, data.data(), data.size(), 0) == size,
            "the file cannot be written");
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

}  // namespace fuzz
}  // namespace pretexture
