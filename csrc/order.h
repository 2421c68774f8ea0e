// The order of an epoch as a pure function: position -> record number.
//
// A Feistel network over the smallest even number of bits that holds the largest index, with cycle
// walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), permutes
// 0..n-1 without an array of n entries. Nothing is shuffled, so nothing needs to be stored, and an
// epoch can be entered anywhere.
#pragma once

#include <cstdint>

namespace pretexture {

// Where the keyed permutation of 0..n-1 sends `index`. `domain` and `which` tell permutations of
// one seed and epoch apart.
uint32_t Permute(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                 uint32_t index);

// Where it comes from.
uint32_t PermuteInverse(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                        uint32_t index);

enum class Shuffle { kNone, kGlobal, kWindow };

// Blocks of `block` consecutive records are permuted, every `blocks` of that order form a window,
// and records are permuted within their window: so that only one window's blocks, and the next
// one's, are read at any time.
struct Order {
  uint64_t seed = 0;
  uint32_t records = 0;
  Shuffle shuffle = Shuffle::kNone;
  uint32_t block = 1024;
  uint32_t blocks = 16;

  // The record at `position` (below `records`) of an epoch.
  uint32_t RecordAt(uint32_t epoch, uint32_t position) const;
};

}  // namespace pretexture
