// Threads that fill batches, and the hand-over of finished ones in order.
//
// A batch is a pure function of (seed, epoch, batch number), so that the threads only share which
// record comes next. They take records one by one, several batches deep, and each writes its views
// straight to their place in the batch's buffer. A worker never throws: what goes wrong with a
// record waits in its batch for the consumer.
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

#include "error.h"
#include "example.h"
#include "file.h"
#include "order.h"
#include "render.h"
#include "tfrecord.h"

namespace pretexture {

// A 64-byte aligned block of memory that goes back to its pool when its last owner lets go.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  explicit BufferPool(size_t block_bytes) : block_bytes_(block_bytes) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Throws std::bad_alloc.
  std::shared_ptr<uint8_t> Take();
  // Whether Take would find a block without allocating one, or fewer than `most` exist.
  bool HasRoom(size_t most) const;
  // Frees the idle blocks, now and whenever one comes back.
  void Close();

 private:
  void Return(uint8_t* block);

  const size_t block_bytes_;
  mutable std::mutex mutex_;
  std::vector<uint8_t*> idle_;
  size_t blocks_ = 0;  // all that exist
  bool closed_ = false;
};

// Where the records are: record r is the one at offset[r] of the shard whose range holds r.
struct Records {
  std::vector<std::string> paths;
  std::vector<uint64_t> shard_begin;  // [paths + 1], record numbers
  const uint64_t* offsets = nullptr;
  const uint32_t* lengths = nullptr;
  bool verify_crc = true;
  std::string image_key;
  LabelRule label;
  // If shards are not simply files, opens one: see ShardFiles.
  std::function<int(size_t)> open;

  size_t ShardOf(uint32_t record) const;
};

struct PipelineConfig {
  std::vector<Op> ops;
  Format format;
  int label_values = 1;  // labels per record
  Order order;
  uint32_t batch_size = 1;
  uint32_t shard = 0, shards = 1;
  bool drop_remainder = true;
  bool run_ahead = true;  // into the next epoch
  bool skip_errors = false;
  int threads = 1;
  int prefetch = 2;
  uint64_t max_pixels = DecodeOptions().max_pixels;
  bool fast_dct = false;
};

struct Batch {
  uint32_t epoch = 0;
  uint32_t number = 0;
  uint32_t size = 0;
  std::shared_ptr<uint8_t> image;
  std::vector<int32_t> label;
  std::vector<int64_t> index;
  // For the pipeline's use: records not yet done, and the failure in the lowest place.
  uint32_t pending = 0;
  uint32_t fault_place = UINT32_MAX;
  RecordFault fault;
};

// Totals since the pipeline was made; times in nanoseconds, summed over threads.
struct Stats {
  uint64_t records = 0, bytes = 0, skipped = 0, warnings = 0;
  uint64_t read = 0, decode = 0, resample = 0, color = 0;
  uint64_t waiting = 0;  // the consumer's, for a batch to be ready
};

class Pipeline {
 public:
  // Throws Error if the index makes no sense, or a batch takes more memory than can be addressed.
  Pipeline(Records records, PipelineConfig config);
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  uint32_t BatchesPerEpoch() const { return batches_; }

  // Makes (epoch, batch) the next to be handed over. Does nothing where it already is.
  void Seek(uint32_t epoch, uint32_t batch);

  // The next batch; null where it was not ready within `patience`. A batch with a fault is handed
  // over too. Throws std::bad_alloc where there was no memory for a batch. Without `run_ahead` an
  // epoch's end must be followed by Seek.
  std::shared_ptr<Batch> Next(std::chrono::milliseconds patience);

  Stats GetStats() const;
  // The first skipped record of each kind of reason since the last call.
  std::vector<RecordFault> TakeSkipped();
  // Closes a shard's file, if it is open, as soon as nobody reads it; it is opened anew when
  // needed.
  void Forget(size_t shard);
  // Stops and joins the threads; one that is in `Records::open` is waited for. A thread that waits
  // in Next, or calls it later, gets a std::runtime_error.
  void Close();

 private:
  struct Worker;
  struct Task {
    std::shared_ptr<Batch> batch;
    uint32_t place;
    uint32_t record;
  };

  void Run(Worker* worker);
  bool MayIssue() const;
  Task Issue();
  void Work(const Task& task, Worker* worker);
  void RenderRecord(uint32_t record, const Task& task, Worker* worker);
  uint32_t BatchSize(uint32_t number) const;

  const Records records_;
  const PipelineConfig config_;
  const Plan plan_;
  uint32_t own_ = 0;      // records of this worker's share of an epoch
  uint32_t batches_ = 0;  // per epoch
  size_t batch_bytes_ = 0;
  std::shared_ptr<BufferPool> pool_;

  mutable std::mutex mutex_;
  std::condition_variable may_issue_, ready_;
  std::atomic<bool> stop_{false};  // set with the lock
  bool out_of_memory_ = false;
  bool started_ = false;
  uint32_t next_epoch_ = 0, next_number_ = 0;  // the batch to be issued after those under way
  std::deque<std::shared_ptr<Batch>> under_way_;
  std::shared_ptr<Batch> issuing_;  // the batch whose places are being given out
  uint32_t next_place_ = 0;
  std::chrono::steady_clock::time_point handed_over_;
  Stats stats_;
  std::vector<RecordFault> skipped_;
  std::vector<std::string> skipped_kinds_;

  ShardFiles files_;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace pretexture
