// TFRecord framing: scanning a shard and reading its records, compared with a simple reader.
#include <cstring>

#include "error.h"
#include "fuzz.h"
#include "memory_file.h"
#include "tfrecord.h"

namespace pretexture {
namespace fuzz {
namespace {

// The masked CRC-32C (Castagnoli, reflected 0x82f63b78), bit by bit.
uint32_t PlainMaskedCrc(const uint8_t* data, uint64_t size) {
  uint32_t crc = 0xffffffff;
  for (uint64_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8;
}

uint64_t Load(const uint8_t* data, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | data[i];
  return value;
}

void Store(uint64_t value, int bytes, uint8_t* data) {
  for (int i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(value >> 8 * i);
}

// Whether there is a sound record header at `offset`, and its record is complete.
bool RecordAt(const Bytes& file, uint64_t offset, uint64_t* length) {
  const uint64_t left = file.size() - offset;
  if (left < 16) return false;
  const uint8_t* const at = file.data() + offset;
  *length = Load(at, 8);
  return Load(at + 8, 4) == PlainMaskedCrc(at, 8) && *length <= left - 16;
}

void Compare(const Bytes& data, uint64_t stale_offset, uint32_t stale_length) {
  static MemoryFile file;
  file.Write(data);
  const ShardIndex index = ScanShard(file.path());
  Require(!index.unavailable, "the file cannot be read: " + index.fault);
  Require(index.offsets.size() == index.lengths.size(), "not every record has a length");
  uint64_t offset = 0, length = 0;
  size_t n = 0;
  for (; RecordAt(data, offset, &length); ++n, offset += length + 16) {
    Require(n < index.offsets.size() && index.offsets[n] == offset && index.lengths[n] == length,
            "a record is missed");
  }
  Require(n == index.offsets.size(), "there are records too many");
  const bool sound = offset == data.size() && n > 0;
  Require(index.fault.empty() == sound,
          sound ? "a fault is found where none is: " + index.fault : "the fault is not found");
  Require(index.fault_offset == (sound ? 0 : offset), "the fault is elsewhere");

  const File opened(file.path());
  Scratch buffer;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* const expected = data.data() + index.offsets[i] + 12;
    const uint32_t size = index.lengths[i];
    const bool good = Load(expected + size, 4) == PlainMaskedCrc(expected, size);
    for (const bool verify : {false, true}) {
      bool read = false;
      try {
        const Span got = ReadRecord(opened, index.offsets[i], size, verify, &buffer);
        read = true;
        Require(got.size == size && (size == 0 || std::memcmp(got.data, expected, size) == 0),
                "other data are read");
      } catch (const Unavailable&) {
        Require(false, "a record is not where it was found");
      } catch (const Error&) {
      }
      Require(read == (good || !verify), good ? "a good record is refused" : "a bad one is taken");
    }
  }

  // With an index entry that may be of another file.
  const bool there = stale_offset < data.size() && data.size() - stale_offset >= 16 &&
                     data.size() - stale_offset - 16 >= stale_length &&
                     Load(data.data() + stale_offset, 8) == stale_length;
  bool read = false;
  try {
    ReadRecord(opened, stale_offset, stale_length, false, &buffer);
    read = true;
  } catch (const Unavailable&) {
  }
  Require(read == there, "a record of an index that is out of date");
}

}  // namespace
}  // namespace fuzz
}  // namespace pretexture

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// A mutation that usually gets correct checksums, which no mutation would find by chance.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using namespace pretexture::fuzz;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 == 0) return size;
  for (uint64_t at = 0; at + 16 <= size;) {
    Store(PlainMaskedCrc(data + at, 8), 4, data + at + 8);
    const uint64_t length = Load(data + at, 8);
    if (length > size - at - 16) break;
    if (seed % 4) Store(PlainMaskedCrc(data + at + 12, length), 4, data + at + 12 + length);
    at += length + 16;
  }
  return size;
}

// The input is a shard followed by the place of a record in an outdated index.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const uint8_t length = choices.Byte(), offset = choices.Byte();
  Compare(choices.Rest(), offset, length == 255 ? UINT32_MAX : length);
  return 0;
}
