// Where the records of a data set are and how they are stored.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "example.h"
#include "shard_files.h"

namespace pretexture {

struct Records {
  std::vector<std::string> paths;     // of the shards
  std::vector<uint64_t> shard_begin;  // [shards + 1]: record number at which each shard begins
  // By record number, `shard_begin.back()` of them. The caller owns the arrays and keeps them for
  // as long as the Batcher exists.
  const uint64_t* offsets = nullptr;  // in the shard, bytes
  const uint32_t* lengths = nullptr;  // of the data, bytes
  bool verify_crc = true;
  std::string image_key;
  LabelRule label;
  ShardOpener opener;  // empty if the shards are the files at `paths`

  size_t ShardOf(uint32_t record) const {
    const auto after = std::upper_bound(shard_begin.begin(), shard_begin.end(), uint64_t{record});
    return static_cast<size_t>(after - shard_begin.begin()) - 1;
  }
};

}  // namespace pretexture
