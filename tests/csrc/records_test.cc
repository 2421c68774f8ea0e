#include "records.h"

#include <sys/stat.h>

#include "error.h"
#include "file.h"
#include "tars.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

// The record is valid until the next one is read.
Bytes Read(const Records& records, uint32_t number, Record* record) {
  static Scratch buffer;
  ShardFiles files(records.paths, records.opener);
  records.Read(number, &files, &buffer, record);
  const Span image = record->example.image;
  return Bytes(image.data, image.data + image.size);
}

TEST(an_example_has_its_image_and_its_label) {
  const Bytes example = ImageExample(Text("pixels"), 3);
  const TemporaryFile file(Shard({example}));
  const uint64_t offset = 0;
  const auto length = static_cast<uint32_t>(example.size());
  Records records;
  records.paths = {file.path()};
  records.shard_begin = {0, 1};
  records.offsets = &offset;
  records.lengths = &length;
  records.image_key = "image/encoded";
  records.rule.key = "image/class/label";
  Record record;
  CHECK(Read(records, 0, &record) == Text("pixels"));
  CHECK_EQ(records.LabelOf(record), 2);
  CHECK(records.CanBeIndexed());
  records.verify_crc = false;
  CHECK(!records.CanBeIndexed());
}

TEST(a_member_of_an_archive_is_an_image) {
  const TemporaryFile file(Member("1.jpg", Text("one")) + Member("2.jpg", Text("two!")) + kEnd);
  const uint64_t offsets[] = {0, 1024};
  const uint32_t lengths[] = {3, 4};
  const int32_t labels[] = {7, -1};
  Records records;
  records.layout = Layout::kTar;
  records.paths = {file.path()};
  records.shard_begin = {0, 2};
  records.offsets = offsets;
  records.lengths = lengths;
  records.labels = labels;
  Record record;
  CHECK(Read(records, 1, &record) == Text("two!"));
  CHECK_EQ(records.LabelOf(record), -1);
  const uint32_t key = records.ImageKeyOf(record);
  CHECK(Read(records, 0, &record) == Text("one"));
  CHECK_EQ(records.LabelOf(record), 7);
  CHECK(records.ImageKeyOf(record) != key);
  CHECK_EQ(records.OffsetOf(1).value(), uint64_t{1024});
}

// Files in two folders, the first of which has none.
struct Folder {
  Folder() : file(Text("pixels")) {
    const size_t slash = file.path().rfind('/');
    names = file.path().substr(slash + 1) + '\0' + "missing.jpg" + '\0';
    begin[1] = names.find('\0') + 1;
    modified[0] = modified[1] = File(file.path()).modified();
    records.layout = Layout::kFile;
    records.paths = {"/nowhere", file.path().substr(0, slash)};
    records.shard_begin = {0, 0, 2};
    records.offsets = offsets;
    records.lengths = lengths;
    records.labels = labels;
    records.names = names.data();
    records.name_begin = begin;
    records.modified = modified;
  }

  TemporaryFile file;
  std::string names;
  uint64_t offsets[2] = {0, 6}, begin[2] = {0, 0};
  uint32_t lengths[2] = {6, 6};
  int32_t labels[2] = {5, 5};
  int64_t modified[2] = {};
  Records records;
};

TEST(a_file_in_a_folder_is_an_image) {
  Folder folder;
  Record record;
  CHECK(Read(folder.records, 0, &record) == Text("pixels"));
  CHECK_EQ(folder.records.LabelOf(record), 5);
  CHECK_EQ(folder.records.PathOf(0), folder.file.path());
  CHECK(!folder.records.OffsetOf(0));
  CHECK_THROWS(Read(folder.records, 1, &record), "cannot open: No such file");
}

TEST(a_file_that_has_changed_is_unavailable) {
  Folder folder;
  Record record;
  folder.modified[0] += 1;
  CHECK_THROWS(Read(folder.records, 0, &record), "has changed since its folder was indexed");
  folder.modified[0] -= 1;
  folder.lengths[0] = 5;
  CHECK_THROWS(Read(folder.records, 0, &record), "has changed since its folder was indexed");
}

TEST(an_empty_file_is_an_error_of_the_record) {
  Folder folder;
  folder.file.Write({});
  folder.lengths[0] = 0;
  folder.modified[0] = File(folder.file.path()).modified();
  Record record;
  bool unavailable = false;
  try {
    Read(folder.records, 0, &record);
  } catch (const Unavailable&) {
    unavailable = true;
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.what()), "the file is empty");
  }
  CHECK(!unavailable);
}

TEST(a_function_gives_image_label_and_name) {
  Records records;
  records.layout = Layout::kFunction;
  records.paths = {"Source"};
  records.shard_begin = {0, 9};
  records.function = [](uint32_t number, Scratch* buffer, Record* record) {
    if (number == 8) throw Error("a torn page");
    uint8_t* const data = buffer->Get(1);
    *data = static_cast<uint8_t>(number);
    record->data = record->example.image = {data, 1};
    record->label = 4;
    record->name = "row";
  };
  Record record;
  CHECK(Read(records, 7, &record) == Bytes{7});
  CHECK_EQ(records.LabelOf(record), 4);
  CHECK_EQ(record.name, "row");
  CHECK(!records.CanBeIndexed());
  CHECK_THROWS(Read(records, 8, &record), "a torn page");
  CHECK_EQ(record.name, "");
  CHECK_EQ(records.PathOf(8), "Source");
}

}  // namespace
}  // namespace pretexture
