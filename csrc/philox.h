// Philox4x32-10, a counter-based random number generator: Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011. Every random decision is a pure function of the seed and of a
// counter. loader/epoch/draws.py specifies which word of which counter decides what.
#pragma once

#include <array>
#include <cstdint>

namespace pretexture {

using Words = std::array<uint32_t, 4>;

inline Words Philox(uint64_t key, Words counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

// A number in [0, 1).
inline double Uniform(uint32_t word) { return word * 0x1p-32; }

// A number in 0..n-1.
inline uint32_t Below(uint32_t word, uint32_t n) {
  return static_cast<uint32_t>((uint64_t{word} * n) >> 32);
}

// The random draws of one branch of the pipeline for one record in one epoch. `stream` is the
// number of an operation's sequence of random numbers, `block` counts the blocks of four that a
// view needs.
struct Draws {
  uint64_t seed;
  uint32_t epoch;
  uint32_t record;
  uint32_t branch = 0;

  Words Block(uint32_t stream, uint32_t view, uint32_t block = 0) const {
    return Philox(seed, {branch << 16 | block, stream << 16 | view, record, epoch});
  }
};

// Streams of the loader itself, which no operation uses.
constexpr uint32_t kOrderRecords = 0xFFFF;
constexpr uint32_t kOrderBlocks = 0xFFFE;
constexpr uint32_t kOrderWindow = 0xFFFD;
constexpr uint32_t kReplacement = 0xFFFC;

}  // namespace pretexture
