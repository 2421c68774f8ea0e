// The order of an epoch as a pure function, from position to record number, and the positions that
// each worker owns.
//
// A Feistel network over the smallest even number of bits that holds the largest index, with cycle
// walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), permutes
// 0..n-1 without an array of n entries. Nothing is shuffled in memory, so nothing has to be stored,
// and an epoch can be entered at any position.
#pragma once

#include <cstdint>

namespace pretexture {

// The index to which the permutation of 0..n-1 moves `index`. The permutation is keyed by all other
// arguments: `domain` and `which` tell apart several permutations of one seed and epoch.
uint32_t Permute(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                 uint32_t index);

// The inverse permutation: the index that Permute moves to `index`.
uint32_t PermuteInverse(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t which, uint32_t n,
                        uint32_t index);

enum class Shuffle { kNone, kGlobal, kWindow };

// The order of the records in each epoch.
//
// With Shuffle::kWindow, the dataset is cut into blocks of `block` consecutive records. The blocks
// are permuted, each `blocks` of them form a window, and the records are permuted within their
// window. So at any time only the blocks of one window and of the next one are read.
struct Order {
  uint64_t seed = 0;
  uint32_t records = 0;
  Shuffle shuffle = Shuffle::kNone;
  uint32_t block = 1024;
  uint32_t blocks = 16;

  // The record at `position` (less than `records`) of an epoch.
  uint32_t RecordAt(uint32_t epoch, uint32_t position) const;
};

// The part of each epoch that belongs to one of several workers, and its batches. Worker w of W
// owns the positions w, w + W, w + 2W, … of the epoch's order. `records` is the number of records
// in an epoch, of all workers together.
struct Share {
  uint32_t worker = 0, workers = 1;
  uint32_t batch_size = 1;
  // Whether to leave out the records that would make the last batch smaller, or give some workers
  // one position more than others.
  bool drop_remainder = true;
  // In this one epoch the positions before the first one are left out: others have read them.
  uint32_t first_epoch = 0, first_position = 0;

  // The position from which on an epoch is read. The functions below know only what follows it:
  // their `records` are those of an epoch less this many, and their positions begin there.
  uint32_t Begin(uint32_t epoch) const { return epoch == first_epoch ? first_position : 0; }

  // The number of positions that the worker owns in an epoch.
  uint32_t Positions(uint32_t records) const;
  // The number of its batches in an epoch.
  uint32_t Batches(uint32_t records) const;
  // The number of records in one of them.
  uint32_t BatchSize(uint32_t records, uint32_t batch) const;
  // The position in the epoch of the record in place `place` of a batch.
  uint32_t Position(uint32_t batch, uint32_t place) const;
};

}  // namespace pretexture
