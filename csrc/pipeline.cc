#include "pipeline.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pretexture {
namespace {

using Clock = std::chrono::steady_clock;

// A batch larger than this has left the cache before anyone looks at it.
constexpr size_t kCacheBytes = size_t{4} << 20;
constexpr char kNoMemory[] =
    "there is not enough memory to decode the record; use fewer threads or a lower max_pixels";
// Replacements tried for a record that cannot be used.
constexpr uint32_t kReplacements = 100;
// The user's loop lets go of the last batch right after it takes the next one; for so long a new
// batch waits for that buffer before it allocates another.
constexpr std::chrono::milliseconds kBufferGrace{5};

uint64_t Nanoseconds(Clock::duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// A reason without its details, which are the words that have digits in them, and what follows a
// semicolon.
std::string KindOf(const std::string& reason) {
  std::istringstream words(reason.substr(0, reason.find(';')));
  std::string kind;
  for (std::string word; words >> word;) {
    if (word.find_first_of("0123456789") == std::string::npos) kind += word + ' ';
  }
  return kind;
}

}  // namespace

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
      // Large blocks lie on huge pages where the system grants them: fewer page faults.
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

size_t Records::ShardOf(uint32_t record) const {
  const auto after = std::upper_bound(shard_begin.begin(), shard_begin.end(), uint64_t{record});
  return static_cast<size_t>(after - shard_begin.begin()) - 1;
}

// What a thread keeps to itself.
struct Pipeline::Worker {
  Worker(const Plan& plan, const Format& format, bool stream, const DecodeOptions& options)
      : renderer(plan, format, BestKernels(), stream, options) {}

  Renderer renderer;
  Scratch record;
  std::vector<int32_t> labels;
  Stats stats;  // not yet added to the pipeline's
  uint64_t warnings_seen = 0;
  std::vector<RecordFault> skipped;
};

Pipeline::Pipeline(Records records, PipelineConfig config)
    : records_(std::move(records)),
      config_(std::move(config)),
      plan_(config_.ops),
      files_(records_.paths, records_.open) {
  const uint32_t n = config_.order.records;
  const std::vector<uint64_t>& begin = records_.shard_begin;
  if (begin.size() != records_.paths.size() + 1 || begin.front() != 0 || begin.back() != n ||
      !std::is_sorted(begin.begin(), begin.end())) {
    throw Error("the index of the records is damaged");
  }
  const uint64_t own = config_.drop_remainder
                           ? n / config_.shards
                           : (uint64_t{n} - config_.shard + config_.shards - 1) / config_.shards;
  own_ = static_cast<uint32_t>(own);
  batches_ = static_cast<uint32_t>((own + (config_.drop_remainder ? 0 : config_.batch_size - 1)) /
                                   config_.batch_size);
  batch_bytes_ = config_.format.BatchBytes(std::min(config_.batch_size, std::max(own_, 1u)));
  pool_ = std::make_shared<BufferPool>(batch_bytes_);
}

Pipeline::~Pipeline() { Close(); }

void Pipeline::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  may_issue_.notify_all();
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  const std::lock_guard<std::mutex> lock(mutex_);
  under_way_.clear();
  issuing_.reset();
  pool_->Close();
  files_.ForgetAll();
}

uint32_t Pipeline::BatchSize(uint32_t number) const {
  return std::min(config_.batch_size, own_ - number * config_.batch_size);
}

void Pipeline::Seek(uint32_t epoch, uint32_t batch) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool waiting = !under_way_.empty();
    const uint32_t at_epoch = waiting ? under_way_.front()->epoch : next_epoch_;
    const uint32_t at_number = waiting ? under_way_.front()->number : next_number_;
    if (!started_ || at_epoch != epoch || at_number != batch) {
      // Records being rendered for batches dropped here are finished and forgotten.
      under_way_.clear();
      issuing_.reset();
      next_epoch_ = epoch;
      next_number_ = batch;
    }
    started_ = true;
    const bool stream = batch_bytes_ > kCacheBytes;
    while (!stop_ && threads_.size() < static_cast<size_t>(config_.threads)) {
      workers_.push_back(
          std::make_unique<Worker>(plan_, config_.format, stream,
                                   DecodeOptions{config_.max_pixels, &stop_, config_.fast_dct}));
      try {
        threads_.emplace_back(&Pipeline::Run, this, workers_.back().get());
      } catch (const std::system_error& error) {
        workers_.pop_back();
        throw std::runtime_error("only " + std::to_string(threads_.size()) + " of " +
                                 std::to_string(config_.threads) + " threads can be started (" +
                                 error.what() + "); ask for fewer");
      }
    }
  }
  may_issue_.notify_all();
}

std::shared_ptr<Batch> Pipeline::Next(std::chrono::milliseconds patience) {
  const auto begin = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  const auto front_is_done = [&] {
    return !under_way_.empty() && under_way_.front()->pending == 0;
  };
  ready_.wait_for(lock, patience, [&] { return front_is_done() || stop_; });
  stats_.waiting += Nanoseconds(Clock::now() - begin);
  // Once it is closed, records whose rendering was broken off count as done.
  if (out_of_memory_) throw std::bad_alloc();
  if (stop_) throw std::runtime_error("the Loader was closed while a batch was awaited");
  if (!front_is_done()) return nullptr;
  std::shared_ptr<Batch> batch = std::move(under_way_.front());
  under_way_.pop_front();
  handed_over_ = Clock::now();
  lock.unlock();
  may_issue_.notify_all();
  return batch;
}

// Whether there is a record to take: a place in the batch being given out, or room for another.
bool Pipeline::MayIssue() const {
  if (issuing_) return true;
  if (under_way_.size() >= static_cast<size_t>(config_.prefetch)) return false;
  return next_number_ < batches_ || (config_.run_ahead && batches_ > 0);
}

Pipeline::Task Pipeline::Issue() {
  if (!issuing_) {
    if (next_number_ >= batches_) {
      ++next_epoch_;
      next_number_ = 0;
    }
    auto batch = std::make_shared<Batch>();
    batch->epoch = next_epoch_;
    batch->number = next_number_++;
    batch->size = batch->pending = BatchSize(batch->number);
    batch->label.resize(static_cast<size_t>(batch->size) * config_.label_values);
    batch->index.resize(batch->size);
    batch->image = pool_->Take();
    issuing_ = batch;
    next_place_ = 0;
    under_way_.push_back(std::move(batch));
  }
  Task task{issuing_, next_place_++, 0};
  const uint32_t position =
      config_.shard + config_.shards * (task.batch->number * config_.batch_size + task.place);
  task.record = config_.order.RecordAt(task.batch->epoch, position);
  if (next_place_ == task.batch->size) issuing_.reset();
  return task;
}

void Pipeline::Run(Worker* worker) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    may_issue_.wait(lock, [&] { return stop_ || MayIssue(); });
    if (stop_) return;
    if (!issuing_ && !pool_->HasRoom(static_cast<size_t>(config_.prefetch) + 1)) {
      const auto grace = handed_over_ + kBufferGrace;
      if (Clock::now() < grace) {
        may_issue_.wait_until(lock, std::min(grace, Clock::now() + std::chrono::microseconds(200)));
        continue;
      }
    }
    Task task;
    try {
      task = Issue();
    } catch (const std::bad_alloc&) {
      stop_ = out_of_memory_ = true;
      may_issue_.notify_all();
      ready_.notify_all();
      return;
    }
    lock.unlock();
    Work(task, worker);
    worker->renderer.Settle();
    worker->record.Settle();
    lock.lock();
    Stats& s = worker->stats;
    stats_.records += s.records;
    stats_.bytes += s.bytes;
    stats_.skipped += s.skipped;
    stats_.warnings += s.warnings;
    stats_.read += s.read;
    stats_.decode += s.decode;
    stats_.resample += s.resample;
    stats_.color += s.color;
    s = Stats();
    for (RecordFault& fault : worker->skipped) {
      std::string kind = KindOf(fault.reason);
      if (std::find(skipped_kinds_.begin(), skipped_kinds_.end(), kind) == skipped_kinds_.end()) {
        skipped_kinds_.push_back(std::move(kind));
        skipped_.push_back(std::move(fault));
      }
    }
    worker->skipped.clear();
    if (--task.batch->pending == 0) ready_.notify_all();
  }
}

void Pipeline::Work(const Task& task, Worker* worker) {
  uint32_t record = task.record;
  for (uint32_t attempt = 0; !stop_; ++attempt) {
    std::string reason;
    bool replaceable = config_.skip_errors && attempt < kReplacements;
    try {
      RenderRecord(record, task, worker);
      return;
    } catch (const std::bad_alloc&) {
      reason = kNoMemory;
      replaceable = false;
    } catch (const Unavailable& error) {
      reason = error.what();
      replaceable = false;
    } catch (const std::exception& error) {
      reason = error.what();
    }
    RecordFault fault{records_.paths[records_.ShardOf(record)], records_.offsets[record], record,
                      std::move(reason)};
    if (!replaceable) {
      if (attempt > 0) {
        fault.reason += " (the last of " + std::to_string(attempt) +
                        " records tried in place of record " + std::to_string(task.record) + ")";
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      if (task.place < task.batch->fault_place) {
        task.batch->fault_place = task.place;
        task.batch->fault = std::move(fault);
      }
      return;
    }
    ++worker->stats.skipped;
    worker->skipped.push_back(std::move(fault));
    const Draws draws{config_.order.seed, task.batch->epoch, task.record};
    record = Below(draws.Block(kReplacement, 0, attempt)[0], config_.order.records);
  }
}

void Pipeline::RenderRecord(uint32_t record, const Task& task, Worker* worker) {
  Stats& stats = worker->stats;
  const auto begin = Clock::now();
  const std::shared_ptr<File> file = files_.Get(records_.ShardOf(record));
  const uint32_t length = records_.lengths[record];
  const uint8_t* data =
      ReadRecord(*file, records_.offsets[record], length, records_.verify_crc, &worker->record);
  const Example example = ParseExample({data, length}, records_.image_key, records_.label.key);
  stats.read += Nanoseconds(Clock::now() - begin);

  Renderer& renderer = worker->renderer;
  uint8_t* const out = task.batch->image.get() + task.place * config_.format.RecordBytes();
  const Draws draws{config_.order.seed, task.batch->epoch, record};
  renderer.times = {};
  renderer.Render(example.image, draws, out, &worker->labels);
  if (worker->labels.empty()) {
    worker->labels.push_back(ClassLabel({data, length}, example, records_.label));
  }
  std::copy(worker->labels.begin(), worker->labels.end(),
            task.batch->label.begin() + task.place * config_.label_values);
  task.batch->index[task.place] = record;
  stats.records += 1;
  stats.bytes += length;
  stats.decode += renderer.times.decode;
  stats.resample += renderer.times.resample;
  stats.color += renderer.times.color;
  stats.warnings += renderer.warnings() - worker->warnings_seen;
  worker->warnings_seen = renderer.warnings();
}

void Pipeline::Forget(size_t shard) { files_.Forget(shard); }

Stats Pipeline::GetStats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

std::vector<RecordFault> Pipeline::TakeSkipped() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(skipped_, {});
}

}  // namespace pretexture
