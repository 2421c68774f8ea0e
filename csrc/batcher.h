// Threads that fill batches and hand them over in order.
//
// A batch is a pure function of (seed, epoch, batch number), so all that the threads share is which
// record comes next. They take a few records at a time, several batches ahead of the consumer, and
// write the views of a record directly to its place in the batch's buffer. A thread never throws:
// an error is stored in the batch, and the consumer finds it there.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "buffer_pool.h"
#include "error.h"
#include "order.h"
#include "records.h"
#include "render.h"
#include "row_index.h"
#include "shard_files.h"

namespace pretexture {

struct BatcherOptions {
  std::vector<Branch> branches;
  int label_values = 1;  // per record
  Order order;
  Share share;
  bool run_ahead = true;     // into the next epoch
  bool skip_errors = false;  // replace records that cannot be used by others
  int threads = 1;
  int prefetch = 2;  // batches made ahead of the consumer
  uint64_t max_pixels = DecodeOptions().max_pixels;
  bool fast_dct = false;
  RowIndexFiles rows;
  // If it is set, it is called instead of reading and rendering a record: for tests of the threads.
  std::function<void(uint32_t record)> stand_in;
};

struct Batch {
  uint32_t epoch = 0;
  uint32_t number = 0;              // in the epoch
  uint32_t size = 0;                // records
  std::shared_ptr<uint8_t> images;  // the arrays of all branches, at Batcher::ImageOffset
  std::vector<int32_t> label;
  std::vector<int64_t> index;  // record numbers
  // The failure in the lowest place, if any: then the contents must not be used.
  uint32_t fault_place = UINT32_MAX;
  RecordFault fault;
  uint32_t pending = 0;  // records not yet written; for the Batcher's own use
};

// Totals since the Batcher was created. Times are in nanoseconds, summed over threads.
struct Stats {
  uint64_t records = 0, bytes = 0, skipped = 0, warnings = 0;
  uint64_t read = 0, decode = 0, resample = 0, color = 0;
  uint64_t jumps = 0, bytes_jumped = 0;  // by the row index
  uint64_t waiting = 0;                  // time for which the consumer waited for a batch
};

// Makes the batches of one worker, from epoch to epoch. Thread-safe.
class Batcher {
 public:
  // Starts no thread yet. Throws Error if the shards' record numbers are inconsistent or if a batch
  // takes more memory than can be addressed, and std::invalid_argument if PRETEXTURE_ISA names an
  // instruction set that cannot be used.
  Batcher(Records records, BatcherOptions options);
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  uint32_t BatchesPerEpoch() const { return batches_; }
  // Batches of one epoch, of which the worker may read only the rest.
  uint32_t BatchesIn(uint32_t epoch) const {
    return options_.share.Batches(options_.order.records - options_.share.Begin(epoch));
  }
  // Where the array of a branch begins in the memory of a batch, bytes.
  size_t ImageOffset(size_t branch) const { return image_offsets_[branch]; }

  // Makes (epoch, batch) the next batch to be handed over. Does nothing if it already is.
  void Seek(uint32_t epoch, uint32_t batch);

  // The next batch, or null if it is not ready within `patience`. A batch with a fault is handed
  // over, too. Without `run_ahead`, Seek must be called at the end of each epoch. Throws
  // std::bad_alloc if there is no memory for a batch, and std::runtime_error once the Batcher is
  // closed, also to threads that are waiting.
  std::shared_ptr<Batch> Next(std::chrono::milliseconds patience);

  Stats GetStats() const;
  // The records skipped since the last call: the first one for each kind of reason.
  std::vector<RecordFault> TakeSkipped();
  // What went wrong with the row index since the last call; empty if nothing did.
  std::string TakeRowFault();
  // Closes the file of a shard as soon as nobody reads it. It is opened again when needed.
  void Forget(size_t shard);
  // Stops and joins the threads. Waits for a call of `Records::opener` that has not returned.
  void Close();

 private:
  struct ThreadState;
  // Some places of a batch, one after the other.
  struct Task {
    std::shared_ptr<Batch> batch;
    uint32_t place, count;
  };

  void Run(ThreadState* state);
  bool MayIssue() const;
  Task Issue();
  void Fill(Batch* batch, uint32_t place, ThreadState* state);
  void RenderRecord(uint32_t record, Batch* batch, uint32_t place, ThreadState* state);
  void AddUp(ThreadState* state);

  const Records records_;  // must not move: `rows_` refers to it
  const BatcherOptions options_;
  const Kernels& kernels_;
  uint32_t batches_ = 0;  // of a whole epoch
  std::vector<size_t> image_offsets_;
  size_t batch_bytes_ = 0;
  std::shared_ptr<BufferPool> pool_;

  mutable std::mutex mutex_;
  std::condition_variable may_issue_, ready_;
  std::atomic<bool> stop_{false};  // set under the lock
  bool out_of_memory_ = false;
  bool started_ = false;
  uint32_t next_epoch_ = 0, next_number_ = 0;     // of the batch to begin after those under way
  std::deque<std::shared_ptr<Batch>> under_way_;  // in the order in which they are handed over
  std::shared_ptr<Batch> issuing_;                // the batch whose places are being given out
  uint32_t next_place_ = 0;                       // in that batch
  std::chrono::steady_clock::time_point handed_over_;
  Stats stats_;
  std::vector<RecordFault> skipped_;
  std::vector<std::string> skipped_kinds_;

  ShardFiles files_;
  std::unique_ptr<RowIndex> rows_;  // null without a row index

  std::vector<std::unique_ptr<ThreadState>> states_;
  std::vector<std::thread> threads_;
};

}  // namespace pretexture
