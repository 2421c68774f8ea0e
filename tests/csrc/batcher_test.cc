#include "batcher.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "jpegs.h"
#include "shards.h"
#include "test.h"
#include "tfrecord.h"

namespace pretexture {
namespace {

using namespace test;

constexpr int kRecords = 23;
constexpr int kSide = 16;

// Records in two shards, and their index.
struct Data {
  explicit Data(const std::vector<Bytes>& examples) {
    const auto middle = examples.begin() + static_cast<std::ptrdiff_t>(examples.size() / 2);
    shards[0].Write(Shard({examples.begin(), middle}));
    shards[1].Write(Shard({middle, examples.end()}));
    records.shard_begin = {0};
    for (const TemporaryFile& shard : shards) {
      const ShardIndex index = ScanShard(shard.path());
      offsets.insert(offsets.end(), index.offsets.begin(), index.offsets.end());
      lengths.insert(lengths.end(), index.lengths.begin(), index.lengths.end());
      records.paths.push_back(shard.path());
      records.shard_begin.push_back(offsets.size());
    }
    records.offsets = offsets.data();
    records.lengths = lengths.data();
    records.image_key = "image/encoded";
    records.rule.key = "image/class/label";
  }

  TemporaryFile shards[2];
  std::vector<uint64_t> offsets;
  std::vector<uint32_t> lengths;
  Records records;
};

std::vector<Bytes> GoodExamples() {
  std::vector<Bytes> examples;
  for (int i = 0; i < kRecords; ++i) {
    examples.push_back(ImageExample(EncodeJpeg(20 + i, 40 - i), i + 1));
  }
  return examples;
}

const Data& GoodData() {
  static const Data data(GoodExamples());
  return data;
}

BatcherOptions Options(int threads = 2, uint32_t batch_size = 4) {
  BatcherOptions options;
  Format format;
  format.height = format.width = kSide;
  options.branches = {
      {Plan({op::InceptionCrop{16, {0.05, 1}, {3. / 4, 4. / 3}, true},
             op::Resize{32, kSide, kSide, Method::kBilinear, Coords::kHalfPixel, false, false},
             op::Flip{48}, op::Distort{64, true}}),
       format}};
  options.order.seed = 5;
  options.order.records = kRecords;
  options.order.shuffle = Shuffle::kGlobal;
  options.share.batch_size = batch_size;
  options.threads = threads;
  return options;
}

std::shared_ptr<Batch> Next(Batcher* batcher) {
  for (int i = 0; i < 600; ++i) {
    if (auto batch = batcher->Next(std::chrono::milliseconds(100))) return batch;
  }
  Fail(__FILE__, __LINE__, "no batch within a minute");
}

Bytes Pixels(const Batch& batch) {
  const size_t bytes = Options().branches[0].format.RecordBytes() * batch.size;
  return Bytes(batch.images.get(), batch.images.get() + bytes);
}

struct Content {
  Bytes pixels;
  std::vector<int32_t> label;
  std::vector<int64_t> index;
  bool operator==(const Content& o) const {
    return pixels == o.pixels && label == o.label && index == o.index;
  }
};

Content Of(const Batch& batch) { return {Pixels(batch), batch.label, batch.index}; }

std::vector<Content> Run(const BatcherOptions& options, int epochs) {
  Batcher batcher(GoodData().records, options);
  std::vector<Content> contents;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    batcher.Seek(static_cast<uint32_t>(epoch), 0);
    for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
      contents.push_back(Of(*Next(&batcher)));
    }
  }
  return contents;
}

TEST(batches_do_not_depend_on_threads_or_prefetching) {
  const std::vector<Content> expected = Run(Options(1), 3);
  CHECK_EQ(expected.size(), size_t{3 * (kRecords / 4)});
  for (const int threads : {2, 4, 7}) {
    for (const int prefetch : {1, 2, 9}) {
      BatcherOptions options = Options(threads);
      options.prefetch = prefetch;
      CHECK(Run(options, 3) == expected);
    }
  }
  BatcherOptions options = Options(3);
  options.run_ahead = false;
  CHECK(Run(options, 3) == expected);
}

TEST(every_record_is_taken_once_however_many_threads_take_them) {
  for (const int threads : {1, 2, 4, 8, 16}) {
    BatcherOptions options = Options(threads, 1000);
    options.order.records = 10'000;
    std::vector<std::atomic<int>> taken(options.order.records);
    options.stand_in = [&](uint32_t record) { ++taken[record]; };
    options.run_ahead = false;
    Records records;
    const std::vector<uint64_t> offsets(options.order.records);
    const std::vector<uint32_t> lengths(options.order.records);
    records.paths = {""};
    records.shard_begin = {0, options.order.records};
    records.offsets = offsets.data();
    records.lengths = lengths.data();
    Batcher batcher(records, options);
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      batcher.Seek(epoch, 0);
      for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
        const std::shared_ptr<Batch> batch = Next(&batcher);
        for (uint32_t place = 0; place < batch->size; ++place) {
          const uint32_t position = options.share.Position(i, place);
          CHECK_EQ(batch->index[place], int64_t{options.order.RecordAt(epoch, position)});
        }
      }
    }
    batcher.Close();
    CHECK(std::all_of(taken.begin(), taken.end(), [](const auto& count) { return count == 3; }));
  }
}

TEST(the_row_index_is_filled_and_used_by_several_threads_and_changes_no_batch) {
  std::vector<Bytes> examples;
  for (int i = 0; i < kRecords; ++i) {
    examples.push_back(ImageExample(EncodeJpeg(300 + i, 240 - i), i + 1));
  }
  const Data data(examples);
  const TemporaryFile place;
  BatcherOptions options = Options(4);
  const auto run = [&](uint64_t* jumps) {
    Batcher batcher(data.records, options);
    std::vector<Content> contents;
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      batcher.Seek(epoch, 0);
      for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
        contents.push_back(Of(*Next(&batcher)));
      }
    }
    *jumps = batcher.GetStats().jumps;
    CHECK_EQ(batcher.TakeRowFault(), "");
    return contents;
  };
  uint64_t none = 0, first = 0, later = 0;
  const std::vector<Content> expected = run(&none);
  options.rows.folder = place.path().substr(0, place.path().rfind('/'));
  options.rows.paths = {place.path() + "-rows-0", place.path() + "-rows-1"};
  CHECK(run(&first) == expected);
  CHECK(run(&later) == expected);
  for (const std::string& path : options.rows.paths) CHECK_EQ(std::remove(path.c_str()), 0);
  CHECK_EQ(none, 0u);
  CHECK(first > 0);
  CHECK(later > first);
}

TEST(any_batch_can_be_sought) {
  const std::vector<Content> expected = Run(Options(), 2);
  const auto per_epoch = static_cast<uint32_t>(expected.size() / 2);
  Batcher batcher(GoodData().records, Options());
  Random random(1);
  for (int i = 0; i < 60; ++i) {
    const auto at = static_cast<uint32_t>(random.Between(0, static_cast<int>(expected.size()) - 1));
    batcher.Seek(at / per_epoch, at % per_epoch);
    CHECK(Of(*Next(&batcher)) == expected[at]);
  }
}

TEST(workers_share_an_epoch) {
  for (const bool drop : {false, true}) {
    std::multiset<int64_t> seen;
    std::set<uint32_t> counts;
    for (uint32_t worker = 0; worker < 3; ++worker) {
      BatcherOptions options = Options();
      options.share.worker = worker;
      options.share.workers = 3;
      options.share.drop_remainder = drop;
      Batcher batcher(GoodData().records, options);
      counts.insert(batcher.BatchesPerEpoch());
      batcher.Seek(0, 0);
      for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
        const auto batch = Next(&batcher);
        seen.insert(batch->index.begin(), batch->index.end());
      }
    }
    CHECK_EQ(counts.size(), size_t{1});
    CHECK_EQ(seen.size(), drop ? size_t{12} : size_t{kRecords});
    CHECK_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), seen.size());
  }
}

TEST(batches_that_are_kept_are_not_overwritten_and_buffers_come_back) {
  Batcher batcher(GoodData().records, Options());
  std::vector<std::shared_ptr<Batch>> kept;
  std::vector<Content> copies;
  batcher.Seek(0, 0);
  for (int i = 0; i < 20; ++i) {
    kept.push_back(Next(&batcher));
    copies.push_back(Of(*kept.back()));
  }
  std::set<const uint8_t*> places;
  for (size_t i = 0; i < kept.size(); ++i) {
    CHECK(Of(*kept[i]) == copies[i]);
    CHECK_EQ(reinterpret_cast<uintptr_t>(kept[i]->images.get()) % 64, uintptr_t{0});
    places.insert(kept[i]->images.get());
  }
  CHECK_EQ(places.size(), kept.size());
  kept.clear();
  for (int i = 0; i < 60; ++i) places.insert(Next(&batcher)->images.get());
  // The batches under way while the others were kept may have new buffers.
  CHECK(places.size() <= copies.size() + 4);
}

TEST(a_batch_outlives_its_batcher) {
  std::shared_ptr<Batch> batch;
  Content copy;
  {
    Batcher batcher(GoodData().records, Options());
    batcher.Seek(0, 0);
    batch = Next(&batcher);
    copy = Of(*batch);
  }
  CHECK(Of(*batch) == copy);
}

TEST(a_batcher_can_be_closed_at_any_time) {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    Batcher batcher(GoodData().records, Options(random.Between(1, 5)));
    if (round % 5 != 0) batcher.Seek(0, 0);
    for (int i = random.Between(0, 3) * (round % 5 != 0); i > 0; --i) Next(&batcher);
    if (round % 2) batcher.Close();
  }
}

TEST(who_waits_for_a_batch_while_the_batcher_is_closed_gets_an_error) {
  for (int round = 0; round < 20; ++round) {
    Batcher batcher(GoodData().records, Options());
    std::string thrown;
    std::thread consumer([&] {
      thrown = Thrown([&] {
        for (uint32_t epoch = 0;; ++epoch) {
          batcher.Seek(epoch, 0);
          Next(&batcher);
        }
      });
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    batcher.Close();
    consumer.join();
    CheckContains(__FILE__, __LINE__, thrown, "closed");
  }
}

TEST(statistics_can_be_read_while_batches_are_made) {
  Batcher batcher(GoodData().records, Options(3));
  std::atomic<bool> done{false};
  uint64_t most = 0;
  std::thread reader([&] {
    while (!done) {
      most = std::max(most, batcher.GetStats().records);
      batcher.TakeSkipped();
    }
  });
  batcher.Seek(0, 0);
  for (int i = 0; i < 50; ++i) Next(&batcher);
  done = true;
  reader.join();
  const Stats stats = batcher.GetStats();
  CHECK(stats.records >= 200 && most <= stats.records);
  CHECK(stats.decode > 0 && stats.resample > 0 && stats.color > 0 && stats.read > 0);
}

// Every third record is broken, in one of four ways.
std::vector<Bytes> BrokenExamples() {
  std::vector<Bytes> examples = GoodExamples();
  for (size_t i = 0; i < examples.size(); i += 3) {
    Bytes image = EncodeJpeg(30, 30);
    if (i % 4 == 0) image.resize(image.size() / 2);
    if (i % 4 == 1) image = Text("\x89PNG and more");
    if (i % 4 == 2) image.clear();
    examples[i] = i % 4 == 3 ? Text("\xff\xff") : ImageExample(image, 1);
  }
  return examples;
}

TEST(an_error_names_the_record_in_the_lowest_place_and_the_next_batches_go_on) {
  const Data data(BrokenExamples());
  for (const int threads : {1, 4}) {
    BatcherOptions options = Options(threads, 8);
    options.order.shuffle = Shuffle::kNone;
    Batcher batcher(data.records, options);
    batcher.Seek(0, 0);
    for (int64_t batch = 0; batch < 2; ++batch) {
      const auto faulty = Next(&batcher);
      const uint32_t place = batch == 0 ? 0 : 1;
      CHECK_EQ(faulty->fault_place, place);
      const uint32_t record = static_cast<uint32_t>(batch) * 8 + place;
      CHECK_EQ(faulty->fault.record, record);
      CHECK_EQ(faulty->fault.path, data.shards[0].path());
      CHECK_EQ(faulty->fault.offset.value(), data.offsets[record]);
      CHECK(!faulty->fault.reason.empty());
    }
  }
}

TEST(skipped_records_are_replaced_by_the_same_others_on_any_number_of_threads) {
  const Data data(BrokenExamples());
  std::vector<Content> expected;
  for (const int threads : {1, 2, 4}) {
    BatcherOptions options = Options(threads);
    options.skip_errors = true;
    options.run_ahead = false;
    Batcher batcher(data.records, options);
    batcher.Seek(0, 0);
    std::vector<Content> contents;
    for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
      const auto batch = Next(&batcher);
      CHECK_EQ(batch->fault_place, UINT32_MAX);
      for (const int64_t record : batch->index) CHECK(record % 3 != 0);
      contents.push_back(Of(*batch));
    }
    if (threads == 1) expected = contents;
    CHECK(contents == expected);
    CHECK(batcher.GetStats().skipped >= 4);
    std::set<std::string> reasons;
    for (const RecordFault& fault : batcher.TakeSkipped()) {
      CHECK_EQ(fault.record % 3, 0u);
      reasons.insert(fault.reason);
    }
    CHECK(reasons.size() >= 3);
    CHECK(batcher.TakeSkipped().empty());
  }
}

TEST(of_records_that_fail_alike_the_first_is_reported) {
  std::vector<Bytes> examples = GoodExamples();
  Data data(examples);
  // Damages the last byte of each record's data in the first shard.
  Bytes shard = Shard({examples.begin(), examples.begin() + kRecords / 2});
  for (size_t i = 0; i < kRecords / 2; ++i) ++shard[data.offsets[i] + 12 + data.lengths[i] - 1];
  data.shards[0].Write(shard);
  BatcherOptions options = Options();
  options.skip_errors = true;
  Batcher batcher(data.records, options);
  batcher.Seek(0, 0);
  for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) Next(&batcher);
  CHECK(batcher.GetStats().skipped > 3);
  CHECK_EQ(batcher.TakeSkipped().size(), size_t{1});
}

TEST(an_inconsistent_index_is_refused) {
  Data data(GoodExamples());
  for (const std::vector<uint64_t>& begin : {std::vector<uint64_t>{0, kRecords},
                                             {0, kRecords + 1, kRecords},
                                             {1, 5, kRecords},
                                             {0, 5, kRecords - 1},
                                             {0, ~uint64_t{0}, kRecords}}) {
    Records records = data.records;
    records.shard_begin = begin;
    CHECK_THROWS(Batcher(records, Options()), "the index of the records is damaged");
  }
  const std::vector<uint64_t> far(kRecords, ~uint64_t{0} - 8);
  const std::vector<uint32_t> long_ones(kRecords, UINT32_MAX);
  Records records = data.records;
  records.offsets = far.data();
  records.lengths = long_ones.data();
  Batcher batcher(records, Options());
  batcher.Seek(0, 0);
  CHECK(Next(&batcher)->fault.reason.find("truncated") != std::string::npos);
}

TEST(each_branch_has_an_aligned_array_and_the_first_is_as_it_is_alone) {
  BatcherOptions options = Options();
  Format small;
  small.views = 2;
  small.height = 7;
  small.width = 5;
  options.branches.push_back({Plan({op::Views{0, 2}, op::Crop{0, 7, 5, true}}), small});
  Batcher both(GoodData().records, options), alone(GoodData().records, Options());
  both.Seek(0, 0);
  alone.Seek(0, 0);
  CHECK_EQ(both.ImageOffset(0), size_t{0});
  CHECK_EQ(both.ImageOffset(1) % 64, size_t{0});
  CHECK(both.ImageOffset(1) >= 4 * options.branches[0].format.RecordBytes());
  for (int i = 0; i < 5; ++i) {
    CHECK(Pixels(*Next(&both)) == Pixels(*Next(&alone)));
  }
}

TEST(the_rest_of_an_epoch_begins_at_its_position_and_the_next_is_whole) {
  BatcherOptions options = Options();
  options.share.first_epoch = 1;
  options.share.first_position = 6;
  options.share.drop_remainder = false;
  Batcher batcher(GoodData().records, options);
  batcher.Seek(1, 0);
  for (uint32_t position = 6; position < kRecords; position += 4) {
    const auto batch = Next(&batcher);
    for (uint32_t i = 0; i < batch->size; ++i) {
      CHECK_EQ(batch->index[i], int64_t{options.order.RecordAt(1, position + i)});
    }
  }
  const auto batch = Next(&batcher);
  CHECK_EQ(batch->epoch, uint32_t{2});
  CHECK_EQ(batch->index[0], int64_t{options.order.RecordAt(2, 0)});
  options.share.first_position = kRecords + 1;
  CHECK_THROWS(Batcher(GoodData().records, options), "beyond the epoch");
}

TEST(a_batch_beyond_all_memory_is_refused) {
  BatcherOptions options = Options();
  options.share.drop_remainder = false;
  Format& format = options.branches[0].format;
  format.views = 1 << 30;
  format.height = format.width = 1 << 16;
  CHECK_THROWS(Batcher(GoodData().records, options), "more memory than any machine has");
}

// One thread seeks batches in mid-epoch and two take them, while another reads statistics and
// forgets files, until the batcher is closed. This is mainly for ThreadSanitizer.
TEST(eight_threads_make_the_same_batches_whoever_seeks_takes_and_closes) {
  const Data data(BrokenExamples());
  for (const bool skip : {false, true}) {
    BatcherOptions options = Options(1, 5);
    options.skip_errors = skip;
    options.share.drop_remainder = false;
    std::vector<std::pair<uint32_t, Content>>
        expected;  // the place of the fault; without one, the content
    const auto outcome = [](const Batch& batch) {
      const bool sound = batch.fault_place == UINT32_MAX;
      return std::make_pair(batch.fault_place, sound ? Of(batch) : Content());
    };
    constexpr uint32_t kEpochs = 3;
    uint32_t per_epoch;
    {
      Batcher batcher(data.records, options);
      per_epoch = batcher.BatchesPerEpoch();
      batcher.Seek(0, 0);
      while (expected.size() < size_t{kEpochs} * per_epoch) {
        expected.push_back(outcome(*Next(&batcher)));
      }
    }
    options.threads = 8;
    options.prefetch = 3;
    std::atomic<int> taken{0};
    for (int round = 0; round < 12; ++round) {
      Batcher batcher(data.records, options);
      std::atomic<bool> done{false}, wrong{false};
      std::vector<std::thread> users;
      for (int user = 0; user < 2; ++user) {
        users.emplace_back([&] {
          try {
            while (!done) {
              const auto batch = batcher.Next(std::chrono::milliseconds(20));
              if (!batch || batch->epoch >= kEpochs) continue;
              ++taken;
              const size_t at = size_t{batch->epoch} * per_epoch + batch->number;
              if (outcome(*batch) != expected[at]) wrong = true;
            }
          } catch (const std::runtime_error&) {  // it was closed
          }
        });
      }
      users.emplace_back([&] {
        Random random(static_cast<uint64_t>(round));
        while (!done) {
          const int at = random.Between(0, static_cast<int>(kEpochs * per_epoch) - 1);
          batcher.Seek(static_cast<uint32_t>(at) / per_epoch,
                       static_cast<uint32_t>(at) % per_epoch);
          std::this_thread::sleep_for(std::chrono::milliseconds(random.Between(0, 6)));
        }
      });
      users.emplace_back([&] {
        for (size_t i = 0; !done; ++i) {
          batcher.GetStats();
          batcher.TakeSkipped();
          batcher.Forget(i % 2);
          std::this_thread::yield();
        }
      });
      for (const int before = taken; taken < before + 10;) std::this_thread::yield();
      if (round % 2) batcher.Close();
      done = true;
      for (std::thread& user : users) user.join();
      CHECK(!wrong);
    }
  }
}

TEST(if_no_record_can_be_used_skipping_ends_with_an_error) {
  const Data data(std::vector<Bytes>(kRecords, ImageExample(Text("no image"), 1)));
  BatcherOptions options = Options(3);
  options.skip_errors = true;
  Batcher batcher(data.records, options);
  batcher.Seek(0, 0);
  const auto batch = Next(&batcher);
  CHECK_EQ(batch->fault_place, 0u);
  CHECK(batch->fault.reason.find("neither a JPEG") != std::string::npos);
  CHECK(batch->fault.reason.find("the last of 100 records tried") != std::string::npos);
}

TEST(a_shard_that_is_cut_or_gone_after_its_scan_is_an_error) {
  Data data(GoodExamples());
  data.shards[1].Write({});
  BatcherOptions options = Options(2, 1);
  options.order.shuffle = Shuffle::kNone;
  Batcher batcher(data.records, options);
  batcher.Seek(0, kRecords - 1);
  CHECK(Next(&batcher)->fault.reason.find("truncated after it was indexed") != std::string::npos);
  Records gone = data.records;
  gone.paths[1] += "-gone";
  Batcher other(gone, options);
  other.Seek(0, kRecords - 1);
  CHECK(Next(&other)->fault.reason.find("No such file") != std::string::npos);
}

// Limits the number of open files while it exists.
class FileLimit {
 public:
  explicit FileLimit(rlim_t files) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit limit{files, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  ~FileLimit() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(more_shards_than_may_be_open_at_a_time_are_read) {
  constexpr size_t kShards = 600;
  const FileLimit limit(64);
  // One file under many names: each of them is opened.
  const Bytes example = ImageExample(EncodeJpeg(8, 8), 1);
  const TemporaryFile file(Shard({example}));
  std::vector<uint64_t> offsets(kShards, 0);
  std::vector<uint32_t> lengths;
  Records records = GoodData().records;
  records.paths.clear();
  records.shard_begin = {0};
  for (size_t i = 0; i < kShards; ++i) {
    records.paths.push_back(file.path());
    records.shard_begin.push_back(i + 1);
    lengths.push_back(static_cast<uint32_t>(example.size()));
  }
  records.offsets = offsets.data();
  records.lengths = lengths.data();
  BatcherOptions options = Options(4, 50);
  options.order.records = kShards;
  Batcher batcher(records, options);
  batcher.Seek(0, 0);
  for (int i = 0; i < 24; ++i) CHECK_EQ(Next(&batcher)->fault_place, UINT32_MAX);
}

// Shards that are opened by a function, which waits until the test lets it open them.
class Gates {
 public:
  explicit Gates(bool open) : open_{open, open} {}

  // The records of `data`, opened through these gates.
  Records Through(const Data& data) {
    Records records = data.records;
    records.opener = [this, paths = data.records.paths](size_t shard) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++asked_[shard];
      changed_.notify_all();
      changed_.wait(lock, [&] { return open_[shard] || shut_; });
      if (shut_) throw Unavailable("the gates are shut");
      return open(paths[shard].c_str(), O_RDONLY);
    };
    for (std::string& path : records.paths) path = "far/" + path;
    return records;
  }
  void Open(size_t shard) {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_[shard] = true;
    changed_.notify_all();
  }
  // From now on, opening fails at once.
  void Shut() {
    const std::lock_guard<std::mutex> lock(mutex_);
    shut_ = true;
    changed_.notify_all();
  }
  void WaitUntilAsked(size_t shard) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return asked_[shard] > 0; });
  }
  int asked(size_t shard) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return asked_[shard];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_[2];
  bool shut_ = false;
  int asked_[2] = {0, 0};
};

TEST(shards_that_a_function_opens_give_the_same_batches) {
  const std::vector<Content> expected = Run(Options(3), 2);
  Gates gates(true);
  Batcher batcher(gates.Through(GoodData()), Options(3));
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto epoch = static_cast<uint32_t>(2 * i / expected.size());
    batcher.Seek(epoch, static_cast<uint32_t>(i) - epoch * batcher.BatchesPerEpoch());
    CHECK(Of(*Next(&batcher)) == expected[i]);
  }
  CHECK(gates.asked(0) <= 3 && gates.asked(1) <= 3);  // at most once per thread
}

TEST(a_shard_that_cannot_be_opened_is_an_error_and_no_record_takes_its_place) {
  for (const bool skip : {false, true}) {
    Gates gates(true);
    gates.Shut();
    BatcherOptions options = Options();
    options.order.shuffle = Shuffle::kNone;
    options.skip_errors = skip;
    Batcher batcher(gates.Through(GoodData()), options);
    batcher.Seek(0, 1);
    const auto batch = Next(&batcher);
    CHECK_EQ(batch->fault_place, 0u);
    CHECK_EQ(batch->fault.record, 4u);
    CHECK_EQ(batch->fault.path, "far/" + GoodData().shards[0].path());
    CHECK_EQ(batch->fault.reason, "the gates are shut");
    CHECK_EQ(batcher.GetStats().skipped, uint64_t{0});
  }
}

TEST(other_shards_are_read_while_one_is_being_opened) {
  Gates gates(false);
  gates.Open(0);
  BatcherOptions options = Options(2, 1);
  options.order.shuffle = Shuffle::kNone;
  options.prefetch = 1;
  Batcher batcher(gates.Through(GoodData()), options);
  batcher.Seek(0, kRecords - 1);
  gates.WaitUntilAsked(1);
  batcher.Seek(0, 0);  // the other thread continues, this one waits for shard 1
  for (int64_t i = 0; i < kRecords / 2; ++i) CHECK_EQ(Next(&batcher)->index.front(), i);
  gates.Open(1);
  CHECK_EQ(Next(&batcher)->index.front(), int64_t{kRecords / 2});
}

TEST(a_batcher_can_be_closed_while_a_shard_is_being_opened) {
  for (int round = 0; round < 20; ++round) {
    Gates gates(false);
    BatcherOptions options = Options(1 + round % 4);
    options.order.shuffle = Shuffle::kNone;
    Batcher batcher(gates.Through(GoodData()), options);
    batcher.Seek(0, 0);
    if (round % 2) gates.WaitUntilAsked(0);
    std::thread closer([&] { batcher.Close(); });
    gates.Shut();
    closer.join();
  }
}

TEST(a_shard_that_is_forgotten_is_opened_again) {
  Gates gates(true);
  BatcherOptions options = Options(1);
  options.order.shuffle = Shuffle::kNone;
  options.run_ahead = false;
  Batcher batcher(gates.Through(GoodData()), options);
  for (int pass = 1; pass <= 3; ++pass) {
    batcher.Seek(0, 0);
    for (uint32_t i = 0; i < batcher.BatchesPerEpoch(); ++i) {
      CHECK_EQ(Next(&batcher)->fault_place, UINT32_MAX);
    }
    CHECK_EQ(gates.asked(0), pass);
    CHECK_EQ(gates.asked(1), 1);
    batcher.Forget(0);
  }
}

TEST(a_shard_that_is_forgotten_while_it_is_being_opened_is_not_kept) {
  Gates gates(false);
  BatcherOptions options = Options(1);
  options.order.shuffle = Shuffle::kNone;
  options.run_ahead = false;
  Batcher batcher(gates.Through(GoodData()), options);
  batcher.Seek(0, 0);
  gates.WaitUntilAsked(0);
  batcher.Forget(0);
  gates.Open(0);
  Next(&batcher);
  Next(&batcher);
  CHECK_EQ(gates.asked(0), 2);
  gates.Shut();  // for the thread, which may be waiting for the other shard
}

}  // namespace
}  // namespace pretexture
