// TFRecord shards and tf.train.Examples for tests, built byte by byte.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "crc32c.h"
#include "test.h"

namespace pretexture {
namespace test {

inline void Append(Bytes* out, const Bytes& more) {
  out->insert(out->end(), more.begin(), more.end());
}

inline Bytes LittleEndian(uint64_t value, int bytes) {
  Bytes out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> 8 * i));
  return out;
}

inline Bytes Framed(const Bytes& data) {
  Bytes record = LittleEndian(data.size(), 8);
  Append(&record, LittleEndian(MaskCrc(Crc32c({record.data(), 8})), 4));
  Append(&record, data);
  Append(&record, LittleEndian(MaskCrc(Crc32c(ToSpan(data))), 4));
  return record;
}

inline Bytes Shard(const std::vector<Bytes>& records) {
  Bytes shard;
  for (const Bytes& record : records) Append(&shard, Framed(record));
  return shard;
}

// A file that is removed at the end of the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const Bytes& data = {}) {
    const char* folder = std::getenv("TMPDIR");
    path_ = std::string(folder ? folder : "/tmp") + "/pretexture-test-XXXXXX";
    const int handle = mkstemp(&path_[0]);
    if (handle < 0) std::abort();
    file_ = fdopen(handle, "wb");
    Write(data);
  }
  ~TemporaryFile() {
    std::fclose(file_);
    std::remove(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  // Replaces the contents of the file.
  void Write(const Bytes& data) {
    file_ = std::freopen(path_.c_str(), "wb", file_);
    if (file_ == nullptr) std::abort();
    if (!data.empty()) std::fwrite(data.data(), 1, data.size(), file_);
    if (std::fflush(file_) != 0) std::abort();
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::FILE* file_;
};

// The wire format of protocol buffers.

inline Bytes Varint(uint64_t value) {
  Bytes out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<uint8_t>(value | 0x80));
  out.push_back(static_cast<uint8_t>(value));
  return out;
}

inline Bytes Field(uint32_t number, const Bytes& content) {
  Bytes out = Varint(number << 3 | 2);
  Append(&out, Varint(content.size()));
  Append(&out, content);
  return out;
}

inline Bytes VarintField(uint32_t number, uint64_t value) {
  Bytes out = Varint(number << 3);
  Append(&out, Varint(value));
  return out;
}

inline Bytes Text(const std::string& text) { return Bytes(text.begin(), text.end()); }

inline Bytes operator+(Bytes a, const Bytes& b) {
  Append(&a, b);
  return a;
}

inline Bytes BytesFeature(const Bytes& value) { return Field(1, Field(1, value)); }
inline Bytes Int64Feature(int64_t value) {
  return Field(3, Field(1, Varint(static_cast<uint64_t>(value))));
}
inline Bytes Entry(const std::string& key, const Bytes& feature) {
  return Field(1, Field(1, Text(key)) + Field(2, feature));
}

inline Bytes ImageExample(const Bytes& image, int64_t label) {
  return Field(1, Entry("image/encoded", BytesFeature(image)) +
                      Entry("image/class/label", Int64Feature(label)));
}

}  // namespace test
}  // namespace pretexture
