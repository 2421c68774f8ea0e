#include "order.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "philox.h"
#include "test.h"

namespace pretexture {
namespace {

std::vector<uint32_t> Epoch(const Order& order, uint32_t epoch) {
  std::vector<uint32_t> records(order.records);
  for (uint32_t i = 0; i < order.records; ++i) records[i] = order.RecordAt(epoch, i);
  return records;
}

bool IsPermutation(std::vector<uint32_t> records) {
  std::sort(records.begin(), records.end());
  for (uint32_t i = 0; i < records.size(); ++i) {
    if (records[i] != i) return false;
  }
  return true;
}

Order Make(Shuffle shuffle, uint32_t records, uint32_t block = 1024, uint32_t blocks = 16,
           uint64_t seed = 7) {
  Order order;
  order.seed = seed;
  order.records = records;
  order.shuffle = shuffle;
  order.block = block;
  order.blocks = blocks;
  return order;
}

TEST(each_record_stands_at_one_place_of_an_epoch) {
  for (const uint32_t n : {1u, 2u, 3u, 4u, 5u, 15u, 16u, 17u, 255u, 256u, 257u, 1000u, 20000u}) {
    CHECK(IsPermutation(Epoch(Make(Shuffle::kGlobal, n), 0)));
    CHECK(IsPermutation(Epoch(Make(Shuffle::kNone, n), 0)));
  }
}

TEST(the_inverse_permutation_leads_back) {
  test::Random random(1);
  for (const uint32_t n : {1u, 2u, 7u, 1000u, 1281167u, ~0u}) {
    for (int i = 0; i < 200; ++i) {
      const uint32_t index = random.Next() % n;
      const uint32_t there = Permute(3, 1, kOrderRecords, 2, n, index);
      CHECK(there < n);
      CHECK_EQ(PermuteInverse(3, 1, kOrderRecords, 2, n, there), index);
    }
  }
}

TEST(orders_of_other_seeds_and_epochs_differ) {
  const Order order = Make(Shuffle::kGlobal, 1000);
  CHECK(Epoch(order, 0) == Epoch(order, 0));
  CHECK(Epoch(order, 0) != Epoch(order, 1));
  CHECK(Epoch(order, 0) != Epoch(Make(Shuffle::kGlobal, 1000, 1024, 16, 8), 0));
}

// Over many epochs each record is in each place about equally often: chi-squared with (n - 1)^2
// degrees of freedom is within five standard deviations of its mean.
TEST(a_record_is_as_likely_in_any_place) {
  constexpr uint32_t kRecords = 50, kEpochs = 5000;
  std::vector<double> seen(kRecords * kRecords);
  const Order order = Make(Shuffle::kGlobal, kRecords);
  for (uint32_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (uint32_t i = 0; i < kRecords; ++i) seen[i * kRecords + order.RecordAt(epoch, i)] += 1;
  }
  const double expected = double(kEpochs) / kRecords;
  double chi = 0;
  for (const double count : seen) chi += (count - expected) * (count - expected) / expected;
  const double freedom = (kRecords - 1.0) * (kRecords - 1.0);
  CHECK(std::abs(chi - freedom) < 5 * std::sqrt(2 * freedom));
}

TEST(windows_hold_whole_blocks_and_every_record_once) {
  test::Random random(2);
  for (int round = 0; round < 300; ++round) {
    const auto n = static_cast<uint32_t>(random.Between(1, 400));
    const auto block = static_cast<uint32_t>(random.Between(1, 40));
    const auto blocks = static_cast<uint32_t>(random.Between(1, 8));
    const std::vector<uint32_t> records = Epoch(Make(Shuffle::kWindow, n, block, blocks, round), 3);
    CHECK(IsPermutation(records));
    // A block's records lie within one window, which holds at most `blocks` blocks.
    const uint32_t count = (n + block - 1) / block;
    std::vector<uint32_t> first(count, ~0u), last(count, 0);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t b = records[i] / block;
      first[b] = std::min(first[b], i);
      last[b] = std::max(last[b], i);
    }
    for (uint32_t b = 0; b < count; ++b) CHECK(last[b] - first[b] < block * blocks);
  }
}

TEST(huge_windows_and_blocks_do_not_overflow) {
  for (const uint32_t block : {1u, 1000u, 1u << 31, ~0u}) {
    for (const uint32_t blocks : {1u, 1000u, 1u << 31, ~0u}) {
      CHECK(IsPermutation(Epoch(Make(Shuffle::kWindow, 300, block, blocks), 0)));
      const Order order = Make(Shuffle::kWindow, ~0u, block, blocks);
      for (const uint32_t position : {0u, 1u, 1u << 31, ~0u - 1}) {
        CHECK(order.RecordAt(5, position) < order.records);
      }
    }
  }
}

// Compared with lists of positions that are dealt out one by one.
TEST(workers_share_the_positions_of_an_epoch) {
  test::Random random(3);
  for (int round = 0; round < 500; ++round) {
    const auto n = static_cast<uint32_t>(random.Between(0, 60));
    Share share;
    share.workers = static_cast<uint32_t>(random.Between(1, 9));
    share.batch_size = static_cast<uint32_t>(random.Between(1, 12));
    share.drop_remainder = round % 2 == 0;
    for (share.worker = 0; share.worker < share.workers; ++share.worker) {
      std::vector<uint32_t> positions;
      for (uint32_t p = 0; p < n; ++p) {
        // A round of one position for each worker; the last one may not be complete.
        const bool complete = p / share.workers < n / share.workers;
        if (p % share.workers == share.worker && (complete || !share.drop_remainder)) {
          positions.push_back(p);
        }
      }
      CHECK_EQ(share.Positions(n), positions.size());
      size_t at = 0;
      uint32_t batch = 0;
      for (; at < positions.size(); ++batch) {
        const size_t size = std::min<size_t>(share.batch_size, positions.size() - at);
        if (share.drop_remainder && size < share.batch_size) break;
        CHECK(batch < share.Batches(n));
        CHECK_EQ(share.BatchSize(n, batch), size);
        for (uint32_t place = 0; place < size; ++place) {
          CHECK_EQ(share.Position(batch, place), positions[at++]);
        }
      }
      CHECK_EQ(share.Batches(n), batch);
    }
  }
}

TEST(the_largest_epochs_are_shared_without_overflow) {
  for (const uint32_t workers : {1u, 2u, 1000u, ~0u}) {
    for (const uint32_t batch_size : {1u, 4096u, ~0u}) {
      Share share;
      share.workers = workers;
      share.worker = workers - 1;
      share.batch_size = batch_size;
      share.drop_remainder = false;
      const uint64_t n = ~0u, owned = n / workers;
      CHECK_EQ(share.Positions(~0u), owned);
      const uint64_t batches = (owned + batch_size - 1) / batch_size;
      CHECK_EQ(share.Batches(~0u), batches);
      const uint32_t last = static_cast<uint32_t>(batches - 1);
      const uint32_t size = share.BatchSize(~0u, last);
      CHECK_EQ(last * uint64_t{batch_size} + size, owned);
      CHECK_EQ(share.Position(last, size - 1), owned * workers - 1);
    }
  }
}

}  // namespace
}  // namespace pretexture
