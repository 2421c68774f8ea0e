#include "tfrecord.h"

#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "shards.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

std::vector<Bytes> SomeRecords() {
  std::vector<Bytes> records;
  Random random(1);
  // Sizes at which the scan's window of 4096 bytes ends within or near a header.
  for (const int size :
       {0, 1, 5, 4000, 4063, 4064, 4065, 4079, 4080, 4081, 10000, 3, 0, 0, 70000}) {
    Bytes record(static_cast<size_t>(size));
    for (uint8_t& byte : record) byte = static_cast<uint8_t>(random.Next());
    records.push_back(record);
  }
  return records;
}

Bytes Read(const std::string& path, uint64_t offset, uint32_t length) {
  Scratch buffer;
  const Span data = ReadRecord(File(path), offset, length, true, &buffer);
  return Bytes(data.data, data.data + data.size);
}

TEST(a_scan_finds_every_record_and_reading_gives_it_back) {
  const std::vector<Bytes> records = SomeRecords();
  const TemporaryFile file(Shard(records));
  const ShardIndex index = ScanShard(file.path());
  CHECK_EQ(index.fault, "");
  CHECK_EQ(index.offsets.size(), records.size());
  uint64_t offset = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    CHECK_EQ(index.offsets[i], offset);
    CHECK_EQ(index.lengths[i], records[i].size());
    CHECK(Read(file.path(), index.offsets[i], index.lengths[i]) == records[i]);
    offset += records[i].size() + 16;
  }
}

TEST(a_cut_anywhere_ends_the_scan_at_the_record_that_it_hits) {
  const std::vector<Bytes> records = {Bytes(20, 1), Bytes(30, 2), Bytes(7, 3)};
  const Bytes whole = Shard(records);
  const std::vector<size_t> begins = {0, 36, 82, whole.size()};
  TemporaryFile file;
  for (size_t size = 1; size < whole.size(); ++size) {
    file.Write(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
    const ShardIndex index = ScanShard(file.path());
    size_t complete = 0;
    while (begins[complete + 1] <= size) ++complete;
    CHECK_EQ(index.offsets.size(), complete);
    if (begins[complete] == size) {
      CHECK_EQ(index.fault, "");
      continue;
    }
    CHECK_EQ(index.fault_offset, begins[complete]);
    CheckContains(__FILE__, __LINE__, index.fault,
                  size - begins[complete] < 12 ? "ends within a record header" : "bytes of data");
  }
}

TEST(a_flipped_bit_of_a_header_ends_the_scan_there) {
  const Bytes whole = Shard({Bytes(20, 1), Bytes(30, 2), Bytes(7, 3)});
  TemporaryFile file;
  for (size_t bit = 36 * 8; bit < 48 * 8; ++bit) {
    Bytes damaged = whole;
    damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ 1u << bit % 8);
    file.Write(damaged);
    const ShardIndex index = ScanShard(file.path());
    CHECK_EQ(index.offsets.size(), size_t{1});
    CHECK_EQ(index.fault_offset, uint64_t{36});
    CheckContains(__FILE__, __LINE__, index.fault, "CRC32C of the length");
  }
}

TEST(a_flipped_bit_of_the_data_or_their_checksum_is_found_by_reading) {
  const Bytes whole = Shard({Bytes(20, 1), Bytes(30, 2)});
  TemporaryFile file;
  for (size_t bit = 48 * 8; bit < whole.size() * 8; ++bit) {
    Bytes damaged = whole;
    damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ 1u << bit % 8);
    file.Write(damaged);
    CHECK_EQ(ScanShard(file.path()).fault, "");
    CHECK_THROWS(Read(file.path(), 36, 30), "CRC32C of the data");
    Scratch buffer;
    ReadRecord(File(file.path()), 36, 30, false, &buffer);
  }
}

TEST(a_length_beyond_the_file_is_refused_though_its_checksum_fits) {
  for (const uint64_t length : {uint64_t{21}, uint64_t{1} << 31, uint64_t{1} << 32,
                                uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 15}) {
    Bytes header = LittleEndian(length, 8);
    Append(&header, LittleEndian(MaskCrc(Crc32c({header.data(), 8})), 4));
    const TemporaryFile file(header + Bytes(24, 0));
    const ShardIndex index = ScanShard(file.path());
    CHECK(index.offsets.empty());
    CheckContains(__FILE__, __LINE__, index.fault,
                  "claims " + std::to_string(length) + " bytes of data, but only 20 are left");
  }
}

TEST(files_that_are_not_tfrecords_are_refused) {
  TemporaryFile file;
  CheckContains(__FILE__, __LINE__, ScanShard(file.path()).fault, "empty");
  file.Write(Text("These are words, not records.\n"));
  CheckContains(__FILE__, __LINE__, ScanShard(file.path()).fault, "not a TFRecord file");
  CheckContains(__FILE__, __LINE__, ScanShard(file.path() + "-none").fault, "No such file");
  CheckContains(__FILE__, __LINE__, ScanShard("/").fault, "folder");
}

TEST(a_pipe_is_refused_and_not_waited_for) {
  TemporaryFile file;
  const std::string path = file.path() + "-pipe";
  CHECK_EQ(mkfifo(path.c_str(), 0600), 0);
  const ShardIndex index = ScanShard(path);
  unlink(path.c_str());
  CheckContains(__FILE__, __LINE__, index.fault, "not a regular file");
}

TEST(a_file_that_changed_after_its_scan_is_noticed) {
  TemporaryFile file(Shard({Bytes(20, 1), Bytes(30, 2)}));
  file.Write(Shard({Bytes(20, 1)}));
  CHECK_THROWS(Read(file.path(), 36, 30), "truncated after it was indexed");
  file.Write(Shard({Bytes(21, 1), Bytes(60, 2)}));
  CHECK_THROWS(Read(file.path(), 36, 30), "file was replaced");
}

TEST(a_scan_of_several_shards_lists_their_records_in_order_on_any_number_of_threads) {
  std::vector<std::unique_ptr<TemporaryFile>> files;
  std::vector<std::string> paths;
  std::vector<uint64_t> offsets, counts;
  std::vector<uint32_t> lengths;
  for (uint32_t shard = 0; shard < 40; ++shard) {
    std::vector<Bytes> records;
    uint64_t offset = 0;
    for (uint32_t i = 0; i < shard % 7 + 1; ++i) {
      records.push_back(Bytes(shard * 100 + i));
      offsets.push_back(offset);
      lengths.push_back(shard * 100 + i);
      offset += shard * 100 + i + 16;
    }
    counts.push_back(records.size());
    files.push_back(std::make_unique<TemporaryFile>(Shard(records)));
    paths.push_back(files.back()->path());
  }
  for (const int threads : {0, 1, 3, 50}) {
    const RecordIndex index = ScanShards(paths, threads, [] { return true; });
    CHECK(index.offsets == offsets);
    CHECK(index.lengths == lengths);
    CHECK(index.counts == counts);
    CHECK(index.faults.empty());
  }
}

TEST(a_scan_of_several_shards_names_the_faulty_ones_and_keeps_the_records_of_all) {
  const Bytes sound = Shard({Bytes(20, 1), Bytes(30, 2)});
  const TemporaryFile good(sound), cut(Bytes(sound.begin(), sound.end() - 3)), empty;
  const std::string missing = good.path() + "-none";
  const RecordIndex index = ScanShards(
      {good.path(), cut.path(), missing, empty.path(), good.path()}, 2, [] { return true; });
  CHECK((index.counts == std::vector<uint64_t>{2, 1, 0, 0, 2}));
  CHECK((index.offsets == std::vector<uint64_t>{0, 36, 0, 0, 36}));
  CHECK((index.lengths == std::vector<uint32_t>{20, 30, 20, 20, 30}));
  CHECK_EQ(index.faults.size(), size_t{3});
  CHECK_EQ(index.faults[0].shard, size_t{1});
  CHECK_EQ(index.faults[0].offset, uint64_t{36});
  CHECK(!index.faults[0].unavailable);
  CheckContains(__FILE__, __LINE__, index.faults[0].reason, "truncated");
  CHECK_EQ(index.faults[1].shard, size_t{2});
  CHECK(index.faults[1].unavailable);
  CheckContains(__FILE__, __LINE__, index.faults[1].reason, "No such file");
  CHECK_EQ(index.faults[2].shard, size_t{3});
  CHECK(!index.faults[2].unavailable);
  CheckContains(__FILE__, __LINE__, index.faults[2].reason, "empty");
}

TEST(a_scan_of_several_shards_ends_early_once_it_is_told_to) {
  const TemporaryFile file(Shard(std::vector<Bytes>(20000)));
  const std::vector<std::string> paths(5000, file.path());
  int asked = 0;
  const RecordIndex index = ScanShards(paths, 2, [&] { return ++asked < 2; });
  CHECK_EQ(index.counts.size(), paths.size());
  CHECK(index.offsets.size() < paths.size() * 20000);
  CHECK(asked >= 2);
}

TEST(damaged_shards_never_crash_the_scan_or_the_reader) {
  const Bytes whole = Shard({Bytes(20, 1), Bytes(300, 2), Bytes(5000, 3), Bytes(0, 4)});
  TemporaryFile file;
  Random random(5);
  for (int round = 0; round < 3000; ++round) {
    Bytes damaged = whole;
    Mutate(&random, &damaged);
    file.Write(damaged);
    const ShardIndex index = ScanShard(file.path());
    uint64_t end = 0;
    for (size_t i = 0; i < index.offsets.size(); ++i) {
      CHECK_EQ(index.offsets[i], end);
      end += uint64_t{index.lengths[i]} + 16;
      Thrown([&] { Read(file.path(), index.offsets[i], index.lengths[i]); });
    }
    CHECK(end <= damaged.size());
    CHECK(index.fault.empty() == (end == damaged.size() && end > 0));
    if (!index.fault.empty()) CHECK_EQ(index.fault_offset, end);
    // Also with an index that does not belong to the file.
    const auto offset = static_cast<uint64_t>(random.Between(0, 7000));
    Thrown([&] { Read(file.path(), offset, static_cast<uint32_t>(random.Between(0, 7000))); });
  }
}

}  // namespace
}  // namespace pretexture
