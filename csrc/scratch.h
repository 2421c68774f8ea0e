// Memory that a thread keeps from one record to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pretexture {

// One record may need a hundred times the memory of all others. A buffer therefore keeps up to
// `kKept` bytes for good, and more only if two records in a row needed it.
class Scratch {
 public:
  static constexpr size_t kKept = size_t{32} << 20;

  // Room for `size` bytes of one record, which hold nothing yet. Throws std::bad_alloc.
  uint8_t* Get(size_t size) {
    before_ = last_;
    last_ = size;
    if (size > capacity_) {
      memory_.reset();
      capacity_ = 0;
      // An eighth more, so that slowly growing sizes do not allocate every time.
      const size_t capacity = size + size / 8;
      memory_.reset(static_cast<uint8_t*>(std::malloc(capacity)));
      if (!memory_) throw std::bad_alloc();
      capacity_ = capacity;
    }
    return memory_.get();
  }

  // To be called when the record is done: gives back what an outlier took.
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
