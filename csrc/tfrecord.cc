#include "tfrecord.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <new>
#include <utility>

#include "crc32c.h"
#include "error.h"
#include "scan.h"

namespace pretexture {
namespace {

constexpr uint64_t kHeader = 12;
constexpr uint64_t kFooter = 4;
// No image is larger. A longer record is damaged, or made to exhaust memory.
constexpr uint64_t kMaxLength = uint64_t{1} << 30;
constexpr char kChanged[] = "; if it is complete now, create the TFRecords and the Loader again";

uint32_t Load32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

uint64_t Load64(const uint8_t* p) { return Load32(p) | uint64_t{Load32(p + 4)} << 32; }

std::string Hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%08x", value);
  return text;
}

// Reads the length from a record's header. Returns what is wrong with the header, or an empty
// string.
std::string CheckHeader(const uint8_t* header, uint64_t offset, uint64_t file_size,
                        uint64_t* length) {
  *length = Load64(header);
  const uint32_t expected = Load32(header + 8);
  const uint32_t actual = MaskCrc(Crc32c({header, 8}));
  if (expected != actual) {
    const std::string what =
        offset == 0 ? "not a TFRecord file, or a damaged one: " : "damaged record header: ";
    return what + "CRC32C of the length is " + Hex(actual) + ", the file says " + Hex(expected);
  }
  const uint64_t left = file_size - offset - kHeader;
  if (*length > kMaxLength && *length <= left) {
    return "the record has " + std::to_string(*length) + " bytes of data, more than the " +
           std::to_string(kMaxLength) + " that are read";
  }
  if (*length > kMaxLength || *length + kFooter > left) {
    return "the record claims " + std::to_string(*length) + " bytes of data, but only " +
           std::to_string(left > kFooter ? left - kFooter : 0) +
           " are left: the file is truncated or damaged";
  }
  return {};
}

}  // namespace

ShardIndex ScanShard(const std::string& path, const std::atomic<bool>* stop) {
  ShardIndex index;
  try {
    const File file(path);
    if (file.size() == 0) {
      index.fault = "the file is empty";
      return index;
    }
    // A window holds many small records, so scanning them takes few system calls. Of a large
    // record, little more than the header is read.
    std::vector<uint8_t> window(4096);
    uint64_t begin = 0, end = 0;
    for (uint64_t offset = 0; offset < file.size();) {
      if (stop != nullptr && stop->load(std::memory_order_relaxed)) return index;
      if (offset < begin || offset + kHeader > end) {
        begin = offset;
        // Bytes that another process appends during the scan are not part of the shard.
        end = std::min(begin + file.Read(begin, window.data(), window.size()), file.size());
      }
      index.fault_offset = offset;
      if (offset == 0) {
        const Span start{window.data(), static_cast<size_t>(end)};
        if (start.size < kHeader || Load32(start.data + 8) != MaskCrc(Crc32c({start.data, 8}))) {
          index.fault = KindOfFile(start, "a TFRecord file");
          if (!index.fault.empty()) return index;
        }
      }
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

RecordIndex ScanShards(const std::vector<std::string>& paths, int threads,
                       const std::function<bool()>& keep_on) {
  std::vector<ShardIndex> shards(paths.size());
  ScanEach(paths.size(), threads, keep_on,
           [&](size_t i, const std::atomic<bool>* stop) { shards[i] = ScanShard(paths[i], stop); });
  RecordIndex index;
  for (size_t i = 0; i < shards.size(); ++i) {
    ShardIndex& shard = shards[i];
    index.offsets.insert(index.offsets.end(), shard.offsets.begin(), shard.offsets.end());
    index.lengths.insert(index.lengths.end(), shard.lengths.begin(), shard.lengths.end());
    index.counts.push_back(shard.offsets.size());
    if (!shard.fault.empty()) {
      index.faults.push_back({i, shard.fault_offset, std::move(shard.fault), shard.unavailable});
    }
    shard = {};  // frees its memory
  }
  return index;
}

std::string KindOfFile(Span start, const std::string& expected) {
  const auto [data, size] = start;
  const std::string not_one = "not " + expected + " but ";
  const auto packed = [&](const std::string& kind, const std::string& command) {
    return not_one + kind + "; decompress it first: " + command + " < PACKED > SHARD";
  };
  if (start.Has("\x1f\x8b", 2)) return packed("a gzip file", "gunzip");
  if (size >= 2 && data[0] == 0x78 && (data[0] * 256 + data[1]) % 31 == 0) {
    return packed("zlib-compressed data",
                  "python3 -c 'import sys, zlib; "
                  "sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))'");
  }
  if (start.Has("BZh", 3)) return packed("a bzip2 file", "bunzip2");
  if (start.Has("\xfd"
                "7zXZ\0",
                6))
    return packed("an xz file", "unxz");
  if (start.Has("\x28\xb5\x2f\xfd", 4)) return packed("a zstd file", "unzstd");
  if (start.Has("\x04\x22\x4d\x18", 4)) return packed("an lz4 file", "unlz4");
  if (start.Has("PK\3\4", 4) || start.Has("PK\5\6", 4))
    return not_one + "a Zip archive; unpack it first";
  if (start.Has("ustar", 5, 257)) {
    return not_one + "a tar archive; WebDataset reads shards that are tar archives";
  }
  if (start.Has("version https://git-lfs", 23)) {
    return not_one + "a Git LFS pointer; fetch the file itself with git lfs pull";
  }
  if (start.Has("\xff\xd8\xff", 3)) return not_one + "a JPEG image";
  if (start.Has("\x89PNG", 4)) return not_one + "a PNG image";
  if (start.Has("\x89HDF", 4)) return not_one + "an HDF5 file";
  if (start.Has("PAR1", 4)) return not_one + "a Parquet file";
  if (start.Has("\x93NUMPY", 6)) return not_one + "a NumPy array";
  const size_t looked_at = std::min<size_t>(size, 256);
  if (std::all_of(data, data + looked_at, [](uint8_t c) { return c == 0; })) {
    return not_one + "zeros; perhaps its download or copy is not finished";
  }
  const auto is_text = [](uint8_t c) { return (c >= 0x20 && c < 0x7f) || (c >= 9 && c <= 13); };
  if (!std::all_of(data, data + looked_at, is_text)) return {};
  std::string text(data, data + looked_at);
  text.erase(0, text.find_first_not_of(" \t\r\n"));
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto begins = [&](const char* words) { return text.rfind(words, 0) == 0; };
  if (begins("<!doctype html") || begins("<html")) {
    return not_one + "an HTML page, perhaps a server's error message; download it again";
  }
  if (begins("<?xml") || begins("<error")) {
    return not_one +
           "an XML document, perhaps a storage service's error message; download it again";
  }
  if (begins("{") || begins("[")) return not_one + "JSON text";
  if (!text.empty() && text.find_first_not_of("0123456789 \t\r\n") == std::string::npos) {
    return not_one + "lines of numbers, such as a DALI index; give only the shards themselves";
  }
  return not_one + "text";
}

Span ReadRecord(const File& file, uint64_t offset, uint32_t length, bool verify_crc,
                Scratch* buffer) {
  const size_t total = kHeader + length + kFooter;
  const bool within = offset <= file.size() && total <= file.size() - offset;
  uint8_t* const record = buffer->Get(within ? total : 0);
  if (!within || file.Read(offset, record, total) != total) {
    throw Unavailable("the file ends within the record: it was truncated after it was indexed" +
                      std::string(kChanged));
  }
  if (Load64(record) != length) {
    throw Unavailable(
        "the record is not where the index says: the file was replaced after it was "
        "indexed" +
        std::string(kChanged));
  }
  const Span data{record + kHeader, length};
  if (verify_crc) {
    const uint32_t actual = MaskCrc(Crc32c(data));
    const uint32_t expected = Load32(data.data + length);
    if (actual != expected) {
      throw Error("CRC32C of the data is " + Hex(actual) + ", the file says " + Hex(expected));
    }
  }
  return data;
}

uint32_t StoredCrc(Span data) { return Load32(data.data + data.size); }

}  // namespace pretexture
