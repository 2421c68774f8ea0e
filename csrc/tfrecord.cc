#include "tfrecord.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "crc32c.h"

namespace pretexture {
namespace {

constexpr uint64_t kHeader = 12;
constexpr uint64_t kFooter = 4;
constexpr char kChanged[] = "; if it is complete now, make the TFRecords and the Loader again";

uint32_t Load32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

uint64_t Load64(const uint8_t* p) { return Load32(p) | uint64_t{Load32(p + 4)} << 32; }

std::string Hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%08x", value);
  return text;
}

// Checks a record's header; returns the reason if it is wrong.
std::string CheckHeader(const uint8_t* header, uint64_t offset, uint64_t file_size,
                        uint64_t* length) {
  *length = Load64(header);
  const uint32_t expected = Load32(header + 8);
  const uint32_t actual = MaskCrc(Crc32c(header, 8));
  if (expected != actual) {
    const std::string what =
        offset == 0 ? "not a TFRecord file, or a damaged one: " : "damaged record header: ";
    return what + "CRC32C of the length is " + Hex(actual) + ", the file says " + Hex(expected);
  }
  const uint64_t left = file_size - offset - kHeader;
  if (*length > UINT32_MAX || *length + kFooter > left) {
    return "the record claims " + std::to_string(*length) + " bytes of data, but only " +
           std::to_string(left > kFooter ? left - kFooter : 0) +
           " are left: the file is truncated or damaged";
  }
  return {};
}

}  // namespace

ShardIndex ScanShard(const std::string& path) {
  ShardIndex index;
  try {
    const File file(path);
    if (file.size() == 0) {
      index.fault = "the file is empty";
      return index;
    }
    // Small records come many to a window, so that scanning them takes few system calls; of large
    // ones little more than the header is read.
    std::vector<uint8_t> window(4096);
    uint64_t begin = 0, end = 0;
    for (uint64_t offset = 0; offset < file.size();) {
      if (offset < begin || offset + kHeader > end) {
        begin = offset;
        // What is written behind the end meanwhile is not part of the shard.
        end = std::min(begin + file.Read(begin, window.data(), window.size()), file.size());
      }
      index.fault_offset = offset;
      if (end - offset < kHeader) {
        index.fault = "the file ends within a record header: it is truncated";
        return index;
      }
      uint64_t length = 0;
      index.fault = CheckHeader(window.data() + (offset - begin), offset, file.size(), &length);
      if (!index.fault.empty()) return index;
      index.offsets.push_back(offset);
      index.lengths.push_back(static_cast<uint32_t>(length));
      offset += kHeader + length + kFooter;
    }
    index.fault_offset = 0;
  } catch (const Unavailable& error) {
    index.fault = error.what();
    index.unavailable = true;
  } catch (const std::bad_alloc&) {
    index.fault = "there is not enough memory for its index";
    index.unavailable = true;
  }
  return index;
}

const uint8_t* ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                          Scratch* buffer) {
  const size_t total = kHeader + length + kFooter;
  uint8_t* const record = buffer->Get(total);
  if (file.Read(offset, record, total) != total) {
    throw Unavailable("the file ends within the record: it was truncated after it was indexed" +
                      std::string(kChanged));
  }
  if (Load64(record) != length) {
    throw Unavailable(
        "the record is not where the index says: the file was replaced after it was "
        "indexed" +
        std::string(kChanged));
  }
  const uint8_t* const data = record + kHeader;
  if (verify_crc) {
    const uint32_t actual = MaskCrc(Crc32c(data, length));
    const uint32_t expected = Load32(data + length);
    if (actual != expected) {
      throw Error("CRC32C of the data is " + Hex(actual) + ", the file says " + Hex(expected));
    }
  }
  return data;
}

}  // namespace pretexture
