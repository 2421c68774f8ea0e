#include "batcher.h"

#include <algorithm>
#include <new>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace pretexture {
namespace {

using Clock = std::chrono::steady_clock;

// The consumer of a batch larger than this finds little of it in the cache.
constexpr size_t kCacheBytes = size_t{4} << 20;
// Of each array of a batch, bytes.
constexpr size_t kAlignment = 64;
constexpr char kNoMemory[] =
    "there is not enough memory to decode the record; use fewer threads or a lower max_pixels";
// A thread takes one of this many parts of its share of a batch at a time, and at most so many
// records.
constexpr uint32_t kShares = 16, kMostAtOnce = 16;
// How many replacements are tried for a record that cannot be used.
constexpr uint32_t kReplacements = 100;
// The user's loop usually releases a batch right after it takes the next one. A new batch waits for
// that buffer for this long before it allocates another.
constexpr std::chrono::milliseconds kBufferGrace{5};
// How long a Batcher that is closed may write its row index. What it does not write is found again.
constexpr std::chrono::milliseconds kLastWrites{500};

uint64_t Nanoseconds(Clock::duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// What reasons of one kind have in common: the words before a semicolon that have no digits.
std::string KindOf(const std::string& reason) {
  std::istringstream words(reason.substr(0, reason.find(';')));
  std::string kind;
  for (std::string word; words >> word;) {
    if (word.find_first_of("0123456789") == std::string::npos) kind += word + ' ';
  }
  return kind;
}

}  // namespace

// What belongs to one thread.
struct Batcher::ThreadState {
  ThreadState(const std::vector<Branch>& branches, const Kernels& kernels, bool past_cache,
              const DecodeOptions& options)
      : renderer(branches, kernels, past_cache, options), out(branches.size()) {}

  Renderer renderer;
  std::vector<uint8_t*> out;  // where the views of a record go, by branch
  Scratch buffer;
  Record record;
  std::vector<int32_t> labels;
  RowPoints rows;
  Stats stats;  // not yet added to the Batcher's
  DecodeCounts counted;
  std::vector<RecordFault> skipped;
};

Batcher::Batcher(Records records, BatcherOptions options)
    : records_(std::move(records)),
      options_(std::move(options)),
      kernels_(BestKernels()),
      files_(records_.paths, records_.opener) {
  const std::vector<uint64_t>& begin = records_.shard_begin;
  if (begin.size() != records_.paths.size() + 1 || begin.front() != 0 ||
      begin.back() != options_.order.records || !std::is_sorted(begin.begin(), begin.end())) {
    throw Error("the index of the records is damaged");
  }
  const Share& share = options_.share;
  if (share.first_position > options_.order.records) {
    throw Error("the first position is beyond the epoch");
  }
  const uint32_t positions = share.Positions(options_.order.records);
  batches_ = share.Batches(options_.order.records);
  for (const Branch& branch : options_.branches) {
    image_offsets_.push_back(batch_bytes_);
    const size_t bytes =
        branch.format.BatchBytes(std::min(share.batch_size, std::max(positions, 1u)));
    batch_bytes_ =
        CheckedSum(batch_bytes_, CheckedSum(bytes, kAlignment - 1) / kAlignment * kAlignment);
  }
  pool_ = std::make_shared<BufferPool>(batch_bytes_);
  if (!options_.rows.paths.empty()) {
    rows_ = std::make_unique<RowIndex>(options_.rows, records_, share.workers);
  }
}

Batcher::~Batcher() { Close(); }

void Batcher::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  may_issue_.notify_all();
  ready_.notify_all();
  if (!threads_.empty()) {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    if (rows_) rows_->Write(kLastWrites);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  under_way_.clear();
  issuing_.reset();
  pool_->Close();
  files_.ForgetAll();
}

void Batcher::Seek(uint32_t epoch, uint32_t batch) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool waiting = !under_way_.empty();
    const uint32_t at_epoch = waiting ? under_way_.front()->epoch : next_epoch_;
    const uint32_t at_number = waiting ? under_way_.front()->number : next_number_;
    if (!started_ || at_epoch != epoch || at_number != batch) {
      // Threads that are rendering for the batches dropped here finish their record, and the result
      // is discarded.
      under_way_.clear();
      issuing_.reset();
      next_epoch_ = epoch;
      next_number_ = batch;
    }
    started_ = true;
    const bool past_cache = batch_bytes_ > kCacheBytes;
    while (!stop_ && threads_.size() < static_cast<size_t>(options_.threads)) {
      states_.push_back(std::make_unique<ThreadState>(
          options_.branches, kernels_, past_cache,
          DecodeOptions{options_.max_pixels, &stop_, options_.fast_dct}));
      try {
        threads_.emplace_back(&Batcher::Run, this, states_.back().get());
      } catch (const std::system_error& error) {
        states_.pop_back();
        throw std::runtime_error("only " + std::to_string(threads_.size()) + " of " +
                                 std::to_string(options_.threads) + " threads can be started (" +
                                 error.what() + "); ask for fewer");
      }
    }
  }
  may_issue_.notify_all();
}

std::shared_ptr<Batch> Batcher::Next(std::chrono::milliseconds patience) {
  const auto begin = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  const auto front_is_done = [&] {
    return !under_way_.empty() && under_way_.front()->pending == 0;
  };
  ready_.wait_for(lock, patience, [&] { return front_is_done() || stop_; });
  stats_.waiting += Nanoseconds(Clock::now() - begin);
  // This comes first: after Close, records whose rendering was interrupted count as done.
  if (out_of_memory_) throw std::bad_alloc();
  if (stop_) throw std::runtime_error("the Loader was closed while it was waiting for a batch");
  if (!front_is_done()) return nullptr;
  std::shared_ptr<Batch> batch = std::move(under_way_.front());
  under_way_.pop_front();
  handed_over_ = Clock::now();
  lock.unlock();
  may_issue_.notify_one();
  return batch;
}

// Whether a thread may take a record: there is a free place in the batch being given out, or room
// for another batch.
bool Batcher::MayIssue() const {
  if (issuing_) return true;
  if (under_way_.size() >= static_cast<size_t>(options_.prefetch)) return false;
  return next_number_ < BatchesIn(next_epoch_) || (options_.run_ahead && batches_ > 0);
}

Batcher::Task Batcher::Issue() {
  if (!issuing_) {
    if (next_number_ >= BatchesIn(next_epoch_)) {
      ++next_epoch_;
      next_number_ = 0;
    }
    auto batch = std::make_shared<Batch>();
    batch->epoch = next_epoch_;
    batch->number = next_number_++;
    const uint32_t records = options_.order.records - options_.share.Begin(next_epoch_);
    batch->size = batch->pending = options_.share.BatchSize(records, batch->number);
    batch->label.resize(static_cast<size_t>(batch->size) * options_.label_values);
    batch->index.resize(batch->size);
    batch->images = pool_->Take();
    issuing_ = batch;
    next_place_ = 0;
    under_way_.push_back(std::move(batch));
  }
  // Several records at a time, so that threads do not wait for each other's lock if the records are
  // small; but few, so that all threads work on the same batch.
  const uint32_t size = issuing_->size;
  const uint32_t share = size / (kShares * static_cast<uint32_t>(options_.threads));
  const uint32_t count = std::min(std::clamp(share, 1u, kMostAtOnce), size - next_place_);
  Task task{issuing_, next_place_, count};
  next_place_ += count;
  if (next_place_ == size) issuing_.reset();
  return task;
}

void Batcher::Run(ThreadState* state) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    may_issue_.wait(lock, [&] { return stop_ || MayIssue(); });
    if (stop_) return;
    if (!issuing_ && !pool_->HasRoom(static_cast<size_t>(options_.prefetch) + 1)) {
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
    // Each thread wakes the next one, so that not all of them ask for the lock at once.
    const bool more = MayIssue();
    lock.unlock();
    if (more) may_issue_.notify_one();
    for (uint32_t i = 0; i < task.count; ++i) {
      Fill(task.batch.get(), task.place + i, state);
      state->renderer.Settle();
      state->buffer.Settle();
    }
    lock.lock();
    AddUp(state);
    task.batch->pending -= task.count;
    if (task.batch->pending == 0) ready_.notify_all();
  }
}

// Moves what a thread has counted to the totals. Called under the lock.
void Batcher::AddUp(ThreadState* state) {
  Stats& s = state->stats;
  stats_.records += s.records;
  stats_.bytes += s.bytes;
  stats_.skipped += s.skipped;
  stats_.warnings += s.warnings;
  stats_.read += s.read;
  stats_.decode += s.decode;
  stats_.resample += s.resample;
  stats_.color += s.color;
  stats_.jumps += s.jumps;
  stats_.bytes_jumped += s.bytes_jumped;
  s = Stats();
  for (RecordFault& fault : state->skipped) {
    std::string kind = KindOf(fault.reason);
    if (std::find(skipped_kinds_.begin(), skipped_kinds_.end(), kind) == skipped_kinds_.end()) {
      skipped_kinds_.push_back(std::move(kind));
      skipped_.push_back(std::move(fault));
    }
  }
  state->skipped.clear();
}

// Renders the record that belongs in a place of a batch, or another one if that cannot be used.
void Batcher::Fill(Batch* batch, uint32_t place, ThreadState* state) {
  const uint32_t wanted =
      options_.order.RecordAt(batch->epoch, options_.share.Begin(batch->epoch) +
                                                options_.share.Position(batch->number, place));
  uint32_t record = wanted;
  for (uint32_t attempt = 0; !stop_; ++attempt) {
    std::string reason;
    bool replaceable = options_.skip_errors && attempt < kReplacements;
    try {
      RenderRecord(record, batch, place, state);
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
    const std::string& name = state->record.name;
    RecordFault fault{name.empty() ? records_.PathOf(record) : name, records_.OffsetOf(record),
                      record, std::move(reason)};
    if (!replaceable) {
      if (attempt > 0) {
        fault.reason += " (the last of " + std::to_string(attempt) +
                        " records tried in place of record " + std::to_string(wanted) + ")";
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      if (place < batch->fault_place) {
        batch->fault_place = place;
        batch->fault = std::move(fault);
      }
      return;
    }
    ++state->stats.skipped;
    state->skipped.push_back(std::move(fault));
    const Draws draws{options_.order.seed, batch->epoch, wanted};
    record = Below(draws.Block(kReplacement, 0, attempt)[0], options_.order.records);
  }
}

void Batcher::RenderRecord(uint32_t record, Batch* batch, uint32_t place, ThreadState* state) {
  Stats& stats = state->stats;
  if (options_.stand_in) {
    options_.stand_in(record);
    batch->index[place] = record;
    stats.records += 1;
    return;
  }
  const auto begin = Clock::now();
  const Record& read = state->record;
  records_.Read(record, &files_, &state->buffer, &state->record);
  stats.read += Nanoseconds(Clock::now() - begin);

  RowPoints* rows = nullptr;
  uint32_t image = 0;
  size_t shard = 0;
  if (rows_ && records_.CanBeIndexed()) {
    image = records_.ImageKeyOf(read);
    shard = records_.ShardOf(record);
    if (rows_->Read(shard, record, image, &state->rows)) rows = &state->rows;
  }

  Renderer& renderer = state->renderer;
  for (size_t b = 0; b < options_.branches.size(); ++b) {
    state->out[b] =
        batch->images.get() + image_offsets_[b] + place * options_.branches[b].format.RecordBytes();
  }
  const Draws draws{options_.order.seed, batch->epoch, record};
  renderer.times = {};
  renderer.Render(read.example.image, draws, state->out.data(), &state->labels, rows);
  if (rows != nullptr && rows->changed) rows_->Add(shard, record, image, *rows);
  if (state->labels.empty()) {
    state->labels.push_back(records_.LabelOf(read));
  }
  std::copy(state->labels.begin(), state->labels.end(),
            batch->label.begin() + place * options_.label_values);
  batch->index[place] = record;
  stats.records += 1;
  stats.bytes += read.data.size;
  stats.decode += renderer.times.decode;
  stats.resample += renderer.times.resample;
  stats.color += renderer.times.color;
  const DecodeCounts counts = renderer.decode_counts();
  stats.warnings += counts.warnings - state->counted.warnings;
  stats.jumps += counts.jumps - state->counted.jumps;
  stats.bytes_jumped += counts.bytes_jumped - state->counted.bytes_jumped;
  state->counted = counts;
}

std::string Batcher::TakeRowFault() { return rows_ ? rows_->TakeFault() : std::string(); }

void Batcher::Forget(size_t shard) { files_.Forget(shard); }

Stats Batcher::GetStats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

std::vector<RecordFault> Batcher::TakeSkipped() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(skipped_, {});
}

}  // namespace pretexture
