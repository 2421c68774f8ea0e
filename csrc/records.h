// Where the records of a data set are, how they are stored, and how one is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "example.h"
#include "scratch.h"
#include "shard_files.h"
#include "span.h"

namespace pretexture {

// A record in memory.
struct Record {
  Span data;           // everything that was read; in the buffer that was passed to Read
  Example example;     // the image, a part of the data; and the label, if it is stored in the data
  int32_t label = -1;  // if it is not stored in the data
  std::string name;    // of the record, if a RecordFunction has read it
};

// Reads a record by its number. Several threads call it at once. Throws Unavailable, Error for a
// record that cannot be used, and std::bad_alloc.
using RecordFunction = std::function<void(uint32_t number, Scratch* buffer, Record* record)>;

// How records are stored.
enum class Layout {
  kExample,   // as in TFRecord files; a tf.train.Example has the image and its label
  kTar,       // a file in a tar archive is the image
  kFile,      // a file in a folder is the image; the shards are the folders
  kFunction,  // as `Records::function` knows
};

struct Records {
  Layout layout = Layout::kExample;
  std::vector<std::string> paths;     // of the shards
  std::vector<uint64_t> shard_begin;  // [shards + 1]: record number at which each shard begins
  // By record number, `shard_begin.back()` of them. The caller owns the arrays and keeps them for
  // as long as the Batcher exists.
  const uint64_t* offsets = nullptr;  // in the shard, bytes; kFile: as if files were joined
  const uint32_t* lengths = nullptr;  // of the data, bytes
  ShardOpener opener;                 // empty if the shards are the files at `paths`

  // kExample
  bool verify_crc = true;
  std::string image_key;
  LabelRule rule;

  // kTar, kFile: class labels by record number; -1 for no label
  const int32_t* labels = nullptr;

  // kFile
  const char* names = nullptr;           // of files relative to their folder; each ends with a zero
  const uint64_t* name_begin = nullptr;  // by record number: where its name begins in `names`
  const int64_t* modified = nullptr;     // by record number: time of the file's last change, ns

  // kFunction
  RecordFunction function;

  size_t ShardOf(uint32_t number) const {
    const auto after = std::upper_bound(shard_begin.begin(), shard_begin.end(), uint64_t{number});
    return static_cast<size_t>(after - shard_begin.begin()) - 1;
  }

  // The file that a record is in, for errors.
  std::string PathOf(uint32_t number) const;
  // Where the record begins in that file; nothing if the file is the record.
  std::optional<uint64_t> OffsetOf(uint32_t number) const;

  // Reads a record. `files` are the files of the shards. Throws Unavailable if a file cannot be
  // read or has changed, and Error if the record is damaged or has no image.
  void Read(uint32_t number, ShardFiles* files, Scratch* buffer, Record* record) const;
  // The class label of a record that was read; -1 if it has none. Throws Error.
  int32_t LabelOf(const Record& record) const;
  // Whether the row index can know the images of these records again.
  bool CanBeIndexed() const;
  // A number for the image in a record; another image has another one.
  uint32_t ImageKeyOf(const Record& record) const;
};

}  // namespace pretexture
