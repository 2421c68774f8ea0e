#include "order.h"

#include <algorithm>

#include "philox.h"

namespace pretexture {
namespace {

constexpr int kRounds = 6;

// Half of the smallest even number of bits that holds n - 1.
int HalfBits(uint32_t n) {
  int bits = 0;
  while (bits < 32 && (n - 1) >> bits) ++bits;
  return std::max(1, (bits + 1) / 2);
}

struct Feistel {
  uint64_t seed;
  uint32_t epoch, domain, which;
  int half;

  uint32_t Round(uint32_t right, uint32_t round) const {
    const uint32_t mask = (uint32_t{1} << half) - 1;
    return Philox(seed, {right, domain << 16 | round, which, epoch})[0] & mask;
  }

  uint32_t Forward(uint32_t index) const {
    const uint32_t mask = (uint32_t{1} << half) - 1;
    uint32_t left = index >> half, right = index & mask;
    for (uint32_t r = 0; r < kRounds; ++r) {
      const uint32_t mixed = left ^ Round(right, r);
      left = right;
      right = mixed;
    }
    return left << half | right;
  }

  uint32_t Backward(uint32_t index) const {
    const uint32_t mask = (uint32_t{1} << half) - 1;
    uint32_t left = index >> half, right = index & mask;
    for (uint32_t r = kRounds; r-- > 0;) {
      const uint32_t mixed = right ^ Round(left, r);
      right = left;
      left = mixed;
    }
    return left << half | right;
  }
};

}  // namespace

uint32_t Permute(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                 uint32_t index) {
  const Feistel feistel{seed, epoch, domain, which, HalfBits(n)};
  do {
    index = feistel.Forward(index);
  } while (index >= n);
  return index;
}

uint32_t PermuteInverse(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                        uint32_t index) {
  const Feistel feistel{seed, epoch, domain, which, HalfBits(n)};
  do {
    index = feistel.Backward(index);
  } while (index >= n);
  return index;
}

uint32_t Order::RecordAt(uint32_t epoch, uint32_t position) const {
  if (shuffle == Shuffle::kNone) return position;
  if (shuffle == Shuffle::kGlobal) {
    return Permute(seed, epoch, kOrderRecords, 0, records, position);
  }
  // Only the last block of the dataset can be short. The windows after the one that it falls into
  // begin that many records earlier.
  const uint32_t count = (records - 1) / block + 1;
  const uint32_t missing = static_cast<uint32_t>(uint64_t{count} * block - records);
  const uint32_t short_at = PermuteInverse(seed, epoch, kOrderBlocks, 0, count, count - 1);
  const uint64_t window_size = uint64_t{block} * blocks;
  const uint32_t short_window = short_at / blocks;
  uint32_t window = static_cast<uint32_t>(position / window_size);
  if (window >= short_window) {
    window = static_cast<uint32_t>((uint64_t{position} + missing) / window_size);
    if (window < short_window) window = short_window;
  }
  const uint64_t begin = window * window_size - (window > short_window ? missing : 0);
  uint64_t end = (window + 1) * window_size - (window >= short_window ? missing : 0);
  end = std::min<uint64_t>(end, records);
  // In 64 bits, because a window can be larger than the dataset.
  uint64_t place = Permute(seed, epoch, kOrderWindow, window, static_cast<uint32_t>(end - begin),
                           static_cast<uint32_t>(position - begin));
  uint64_t slot = place / block;
  const uint64_t short_slot = short_at % blocks;
  if (window == short_window && place >= short_slot * block) {
    // The blocks after the short one begin `missing` records earlier.
    if (place >= (short_slot + 1) * block - missing) {
      place += missing;
      slot = place / block;
    } else {
      slot = short_slot;
    }
  }
  const uint64_t index = uint64_t{window} * blocks + slot;
  const uint32_t source =
      Permute(seed, epoch, kOrderBlocks, 0, count, static_cast<uint32_t>(index));
  return static_cast<uint32_t>(uint64_t{source} * block + place % block);
}

uint32_t Share::Positions(uint32_t records) const {
  if (drop_remainder) return records / workers;
  return static_cast<uint32_t>((uint64_t{records} - worker + workers - 1) / workers);
}

uint32_t Share::Batches(uint32_t records) const {
  const uint64_t extra = drop_remainder ? 0 : batch_size - 1;
  return static_cast<uint32_t>((Positions(records) + extra) / batch_size);
}

uint32_t Share::BatchSize(uint32_t records, uint32_t batch) const {
  return std::min(batch_size, Positions(records) - batch * batch_size);
}

uint32_t Share::Position(uint32_t batch, uint32_t place) const {
  return worker + workers * (batch * batch_size + place);
}

}  // namespace pretexture
