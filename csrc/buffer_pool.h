// Memory for batches, reused from one batch to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace pretexture {

// Blocks of memory of one size, aligned to 64 bytes. A block belongs to whoever holds the
// shared_ptr, and returns to the pool when the last copy of that pointer is gone, so a batch that a
// user keeps is never overwritten. Blocks may outlive the pool's owner: each one keeps the pool
// alive. Thread-safe.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  explicit BufferPool(size_t block_bytes) : block_bytes_(block_bytes) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Returns an idle block, or allocates one. Its contents are undefined. Throws std::bad_alloc.
  std::shared_ptr<uint8_t> Take();
  // Whether a block is idle, or fewer than `most` blocks exist.
  bool HasRoom(size_t most) const;
  // Frees idle blocks, now and whenever one returns.
  void Close();

 private:
  void Return(uint8_t* block);

  const size_t block_bytes_;
  mutable std::mutex mutex_;
  std::vector<uint8_t*> idle_;
  size_t blocks_ = 0;  // idle and taken
  bool closed_ = false;
};

}  // namespace pretexture
