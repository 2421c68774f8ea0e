// A file that is read at any offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace pretexture {

// Reads `size` bytes at `offset` of an open file into `data`, or fewer if the file ends before.
// Returns how many bytes were read. Throws Unavailable.
size_t ReadAt(int descriptor, uint64_t offset, uint8_t* data, size_t size);

// An open file, closed by the destructor. Reads use pread, not a memory map: if the file is
// truncated while it is read, that gives an error, not a SIGBUS.
//
// Everything here that throws throws Unavailable: if the system refuses to open or read a file,
// its contents may still be sound.
class File {
 public:
  // If the process has too many files open, closes a file that a ShardFiles keeps and tries again.
  explicit File(const std::string& path);
  // Takes ownership of `descriptor`.
  explicit File(int descriptor);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Bytes, when the file was opened.
  uint64_t size() const { return size_; }
  // Time of the last change before the file was opened, nanoseconds since 1970.
  int64_t modified() const { return modified_; }
  size_t Read(uint64_t offset, uint8_t* data, size_t size) const {
    return ReadAt(fd_, offset, data, size);
  }

 private:
  int fd_;
  uint64_t size_ = 0;
  int64_t modified_ = 0;
};

}  // namespace pretexture
