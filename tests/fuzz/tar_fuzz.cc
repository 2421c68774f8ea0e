// Tar archives: what a scan finds lies within the archive, in order, and can be read back.
#include <cstdio>
#include <cstring>

#include "error.h"
#include "fuzz.h"
#include "memory_file.h"
#include "tar.h"

namespace pretexture {
namespace fuzz {
namespace {

constexpr uint64_t kBlock = 512;

// The sum of a header's bytes, with spaces for the checksum itself.
uint32_t Sum(const uint8_t* header) {
  uint32_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? ' ' : header[i];
  return sum;
}

void Check(const Bytes& data, uint64_t stale_offset, uint32_t stale_length) {
  static MemoryFile file;
  file.Write(data);
  const TarIndex index = ScanTar(file.path());
  Require(!index.unavailable, "the file cannot be read: " + index.fault);
  const size_t files = index.offsets.size();
  Require(index.sizes.size() == files && index.text_begin.size() == files + 1,
          "not every file has a size and a text");
  Require(index.text_begin.front() == 0 && index.text_begin.back() == index.text.size(),
          "the texts do not fill their place");
  Require(index.fault_offset <= data.size(), "the fault is beyond the file");
  const File opened(file.path());
  Scratch buffer;
  uint64_t end = 0;
  const char* name = index.names.data();
  for (size_t i = 0; i < files; ++i) {
    const uint64_t offset = index.offsets[i], size = index.sizes[i];
    Require(offset % kBlock == 0 && offset >= end, "files overlap");
    Require(offset + kBlock <= data.size() && size <= data.size() - offset - kBlock,
            "a file reaches beyond the archive");
    end = offset + kBlock + size;
    const uint64_t text = index.text_begin[i + 1] - index.text_begin[i];
    Require(text == 0 || text == size, "a text is not all of its file");
    Require(text == 0 || std::memcmp(index.text.data() + index.text_begin[i],
                                     data.data() + offset + kBlock, text) == 0,
            "a text is that of another file");
    Require(name < index.names.data() + index.names.size() && *name != 0, "a name is missing");
    name += std::strlen(name) + 1;
    const Span got = ReadMember(opened, offset, static_cast<uint32_t>(size), &buffer);
    Require(got.size == size &&
                (size == 0 || std::memcmp(got.data, data.data() + offset + kBlock, got.size) == 0),
            "other data are read");
  }
  Require(name == index.names.data() + index.names.size(), "there are names too many");

  // With an index entry that may be of another archive.
  try {
    const Span got = ReadMember(opened, stale_offset, stale_length, &buffer);
    Require(got.size == stale_length && stale_offset + kBlock + stale_length <= data.size(),
            "data beyond the archive are read");
  } catch (const Unavailable&) {
  }
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
  for (size_t at = 0; at + kBlock <= size; at += kBlock) {
    if (std::memcmp(data + at + 257, "ustar", 5) != 0) continue;
    char text[8];
    std::snprintf(text, sizeof(text), "%06o", Sum(data + at));
    std::memcpy(data + at + 148, text, sizeof(text));
  }
  return size;
}

// The input is an archive followed by the place of a file in an outdated index.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const uint8_t length = choices.Byte(), block = choices.Byte();
  Check(choices.Rest(), block * kBlock, length == 255 ? UINT32_MAX : length);
  return 0;
}
