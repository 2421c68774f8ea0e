#include "buffer_pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pretexture {

BufferPool::~BufferPool() {
  for (uint8_t* block : idle_) std::free(block);
}

std::shared_ptr<uint8_t> BufferPool::Take() {
  uint8_t* block = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      block = idle_.back();
      idle_.pop_back();
    } else {
      // Large blocks are placed on huge pages if the system has them, which saves page faults.
      constexpr size_t kHuge = size_t{2} << 20;
      const size_t alignment = block_bytes_ >= 4 * kHuge ? kHuge : 64;
      const size_t size = (block_bytes_ + alignment - 1) / alignment * alignment;
      block = static_cast<uint8_t*>(std::aligned_alloc(alignment, std::max(size, alignment)));
      if (block == nullptr) throw std::bad_alloc();
#if defined(__linux__)
      if (alignment == kHuge) madvise(block, size, MADV_HUGEPAGE);
#endif
      ++blocks_;
    }
  }
  return std::shared_ptr<uint8_t>(block,
                                  [pool = shared_from_this()](uint8_t* b) { pool->Return(b); });
}

bool BufferPool::HasRoom(size_t most) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !idle_.empty() || blocks_ < most;
}

void BufferPool::Return(uint8_t* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) {
    std::free(block);
  } else {
    idle_.push_back(block);
  }
}

void BufferPool::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  for (uint8_t* block : idle_) std::free(block);
  idle_.clear();
}

}  // namespace pretexture
