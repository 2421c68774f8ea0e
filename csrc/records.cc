#include "records.h"

#include <memory>

#include "crc32c.h"
#include "error.h"
#include "file.h"
#include "row_index.h"
#include "tar.h"
#include "tfrecord.h"

namespace pretexture {
namespace {

// Reads a file that is an image. It is opened for this only: of a million files, few can stay open.
Span ReadFile(const std::string& path, uint32_t length, int64_t modified, Scratch* buffer) {
  const File file(path);
  uint8_t* const data = buffer->Get(length);
  if (file.size() != length || file.modified() != modified ||
      file.Read(0, data, length) != length) {
    throw Unavailable(
        "the file has changed since its folder was indexed; pretexture index, or "
        "ImageFolder(…, refresh=True), indexes the folder again");
  }
  if (length == 0) throw Error("the file is empty");
  return {data, length};
}

}  // namespace

std::string Records::PathOf(uint32_t number) const {
  const std::string& shard = paths[ShardOf(number)];
  return layout == Layout::kFile ? shard + "/" + (names + name_begin[number]) : shard;
}

std::optional<uint64_t> Records::OffsetOf(uint32_t number) const {
  if (layout == Layout::kFile || layout == Layout::kFunction) return std::nullopt;
  return offsets[number];
}

void Records::Read(uint32_t number, ShardFiles* files, Scratch* buffer, Record* record) const {
  *record = {};
  if (layout == Layout::kFunction) {
    function(number, buffer, record);
    return;
  }
  const uint32_t length = lengths[number];
  if (layout == Layout::kExample) {
    const std::shared_ptr<File> file = files->Get(ShardOf(number));
    record->data = ReadRecord(*file, offsets[number], length, verify_crc, buffer);
    record->example = ParseExample(record->data, image_key, rule.key);
    return;
  }
  if (layout == Layout::kTar) {
    const std::shared_ptr<File> file = files->Get(ShardOf(number));
    record->data = ReadMember(*file, offsets[number], length, buffer);
  } else {
    record->data = ReadFile(PathOf(number), length, modified[number], buffer);
  }
  record->example.image = record->data;
  record->label = labels[number];
}

int32_t Records::LabelOf(const Record& record) const {
  return layout == Layout::kExample ? ClassLabel(record.data, record.example, rule) : record.label;
}

bool Records::CanBeIndexed() const {
  // The data are those that the row index knows only if their checksum is right.
  return layout == Layout::kExample ? verify_crc : layout != Layout::kFunction;
}

uint32_t Records::ImageKeyOf(const Record& record) const {
  const uint32_t crc =
      layout == Layout::kExample ? StoredCrc(record.data) : Crc32c(record.example.image);
  return ImageKey(crc, record.data, record.example.image);
}

}  // namespace pretexture
