// Memory that a thread keeps from one record to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pretexture {

// A buffer that grows. One record may need a hundred times the memory of all others, so the buffer
// keeps more than `kKept` bytes only if two records in a row need them.
class Scratch {
 public:
  static constexpr size_t kKept = size_t{32} << 20;

  // Memory for `size` bytes of one record, which is valid until the next call and whose contents
  // are undefined. Throws std::bad_alloc.
  uint8_t* Get(size_t size) {
    before_ = last_;
    last_ = size;
    if (size > capacity_) {
      memory_.reset();
      capacity_ = 0;
      // An eighth more, so that slowly growing records do not allocate every time.
      const size_t capacity = size + size / 8;
      memory_.reset(static_cast<uint8_t*>(std::malloc(capacity)));
      if (!memory_) throw std::bad_alloc();
      capacity_ = capacity;
    }
    return memory_.get();
  }

  // Frees the memory that an outlier took. To be called after each record.
  void Settle() {
    if (capacity_ <= kKept || std::min(last_, before_) >= capacity_ / 2) return;
    memory_.reset();
    capacity_ = 0;
  }

  size_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  size_t capacity_ = 0;
  size_t last_ = 0, before_ = 0;  // bytes that the last two records needed
};

}  // namespace pretexture
