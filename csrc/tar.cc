#include "tar.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "error.h"
#include "scan.h"
#include "tfrecord.h"

namespace pretexture {
namespace {

constexpr uint64_t kBlock = 512;
// No name and no label needs more. A larger one is damaged, or made to exhaust memory.
constexpr uint64_t kMostText = uint64_t{1} << 20;
// Archives are often filled with zeros up to a multiple of some size. So many bytes are looked at.
constexpr uint64_t kMostFilling = uint64_t{1} << 20;
constexpr char kChanged[] = "; create the WebDataset and the Loader again";

// The places of fields in a header, and their sizes.
struct Field {
  size_t at, size;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kChecksum{148, 8}, kMagic{257, 8}, kPrefix{345, 155};
constexpr size_t kType = 156;

// A number in octal digits, between spaces; or, if the first bit is set, the bytes themselves.
// Returns nothing if the field holds something else.
std::optional<uint64_t> Number(const uint8_t* header, Field field) {
  const uint8_t* const p = header + field.at;
  uint64_t value = 0;
  if (p[0] == 0x80) {
    for (size_t i = 1; i < field.size; ++i) {
      if (value >> 55 != 0) return std::nullopt;
      value = value << 8 | p[i];
    }
    return value;
  }
  size_t i = 0;
  while (i < field.size && p[i] == ' ') ++i;
  for (; i < field.size && p[i] >= '0' && p[i] <= '7'; ++i) {
    if (value >> 60 != 0) return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(p[i] - '0');
  }
  for (; i < field.size; ++i) {
    if (p[i] != ' ' && p[i] != 0) return std::nullopt;
  }
  return value;
}

// Whether the checksum in a header is right: the sum of its bytes, with spaces for the checksum.
// Some old programs took the bytes as signed.
bool IsSound(const uint8_t* header) {
  const std::optional<uint64_t> stored = Number(header, kChecksum);
  int64_t plain = 0, with_sign = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const bool inside = i >= kChecksum.at && i < kChecksum.at + kChecksum.size;
    const uint8_t byte = inside ? uint8_t{' '} : header[i];
    plain += byte;
    with_sign += static_cast<int8_t>(byte);
  }
  return stored && *stored < INT64_MAX &&
         (static_cast<int64_t>(*stored) == plain || static_cast<int64_t>(*stored) == with_sign);
}

bool IsZero(const uint8_t* data, size_t size) {
  return std::all_of(data, data + size, [](uint8_t byte) { return byte == 0; });
}

std::string Text(const uint8_t* header, Field field) {
  const char* const begin = reinterpret_cast<const char*>(header) + field.at;
  return {begin, strnlen(begin, field.size)};
}

bool EndsWith(const std::string& name, const char* suffix) {
  const size_t size = std::strlen(suffix);
  if (name.size() < size) return false;
  for (size_t i = 0; i < size; ++i) {
    const char c = name[name.size() - size + i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != suffix[i]) return false;
  }
  return true;
}

uint64_t InBlocks(uint64_t size) { return (size + kBlock - 1) / kBlock * kBlock; }

// What a file is that is not a tar archive; empty if that is unknown, or if it looks like one.
std::string OtherKind(Span start) {
  return start.Has("ustar", 5, kMagic.at) ? "" : KindOfFile(start, "a tar archive");
}

// What headers before a file's own say of it.
struct Extension {
  std::optional<std::string> name;
  std::optional<uint64_t> size;
  bool sparse = false;
};

// Reads the records "LENGTH KEY=VALUE\n" of a pax header. Returns false if they are malformed.
bool ReadPax(const std::string& data, Extension* extension) {
  for (size_t at = 0; at < data.size();) {
    size_t length = 0, digits = at;
    while (digits < data.size() && digits < at + 8 && data[digits] >= '0' && data[digits] <= '9') {
      length = length * 10 + static_cast<size_t>(data[digits++] - '0');
    }
    if (digits == at || digits == data.size() || data[digits] != ' ' || length > data.size() - at ||
        length < digits - at + 3 || data[at + length - 1] != '\n') {
      return false;
    }
    const std::string record = data.substr(digits + 1, at + length - 1 - (digits + 1));
    at += length;
    const size_t equals = record.find('=');
    if (equals == std::string::npos) return false;
    const std::string key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path") {
      if (value.find('\0') != std::string::npos) return false;
      extension->name = value;
    } else if (key == "size") {
      uint64_t size = 0;
      if (value.empty() || value.size() > 18) return false;
      for (const char c : value) {
        if (c < '0' || c > '9') return false;
        size = size * 10 + static_cast<uint64_t>(c - '0');
      }
      extension->size = size;
    } else if (key.rfind("GNU.sparse.", 0) == 0) {
      extension->sparse = true;
    }
  }
  return true;
}

// Goes through an archive.
class Scanner {
 public:
  Scanner(const File& file, TarIndex* index) : file_(file), index_(*index) {}

  // Sets the fault of the index if there is one.
  void Run(const std::atomic<bool>* stop) {
    if (file_.size() == 0) {
      index_.fault = "the file is empty";
      return;
    }
    while (index_.fault.empty() && !ended_) {
      if (stop != nullptr && stop->load(std::memory_order_relaxed)) return;
      index_.fault_offset = offset_;
      index_.fault = ReadEntry();
    }
    if (index_.fault.empty()) index_.fault_offset = 0;
  }

 private:
  // The bytes at an offset, at most a window of them; fewer at the end of the file. They are valid
  // until the next call.
  Span At(uint64_t offset, uint64_t size) {
    if (offset < begin_ || offset + size > end_) {
      // Bytes that another process appends during the scan are not part of the archive.
      begin_ = offset;
      const size_t got = file_.Read(offset, window_, sizeof(window_));
      end_ = std::min(offset + got, std::max(offset, file_.size()));
    }
    return {window_ + (offset - begin_), static_cast<size_t>(std::min(size, end_ - offset))};
  }

  // The data of a small file; shorter if the archive is.
  std::string Contents(uint64_t offset, uint64_t size) {
    std::string data;
    while (data.size() < size) {
      const Span part = At(offset + data.size(), std::min<uint64_t>(kBlock, size - data.size()));
      if (part.size == 0) break;
      data.append(reinterpret_cast<const char*>(part.data), part.size);
    }
    return data;
  }

  // Reads a header and what belongs to it. Returns what is wrong, or an empty string.
  std::string ReadEntry() {
    if (offset_ == file_.size()) {
      return "the file ends without the blocks of zeros that end a tar archive: it is truncated";
    }
    const Span block = At(offset_, kBlock);
    if (block.size < kBlock) {
      const std::string kind = offset_ == 0 ? OtherKind(block) : "";
      return kind.empty() ? "the file ends within a header: it is truncated" : kind;
    }
    uint8_t header[kBlock];
    std::memcpy(header, block.data, kBlock);
    if (IsZero(header, kBlock)) return End();
    if (!IsSound(header)) {
      if (offset_ != 0) return "the header of a file is damaged: its checksum is wrong";
      const std::string kind = OtherKind(block);
      return kind.empty() ? "not a tar archive, or a damaged one: the checksum of the first header "
                            "is wrong"
                          : kind;
    }
    std::optional<uint64_t> size = Number(header, kSize);
    if (!size) return "the header of a file is damaged: its size is not a number";
    const char type = static_cast<char>(header[kType]);
    const uint64_t data = offset_ + kBlock;
    if (type == 'L' || type == 'K' || type == 'x' || type == 'g') return Extend(type, data, *size);

    const Extension next = std::exchange(next_, all_);
    const bool same_size = !next.size || next.size == size;
    if (next.size) size = next.size;
    std::string name = next.name.value_or(Name(header));
    const bool regular = type == '0' || type == '7' || (type == 0 && name.back() != '/');
    // Links, devices, folders and pipes have no data, whatever their size says.
    if (type == 0 && !regular) size = 0;
    if (type >= '1' && type <= '6') size = 0;
    const uint64_t left = file_.size() - data;
    if (*size > left) {
      return "the file " + name + " in the archive claims " + std::to_string(*size) +
             " bytes, but only " + std::to_string(left) +
             " are left: the archive is truncated or damaged";
    }
    if (type == 'S' || next.sparse) {
      return "the file " + name + " is stored as a sparse one; pack the archive without --sparse";
    }
    if (!same_size && *size <= UINT32_MAX) {  // ReadMember compares the size with the header's
      return "the file " + name + " has another size in its pax header than in its own";
    }
    if (regular) {
      const bool is_text = EndsWith(name, ".cls") || EndsWith(name, ".json");
      if (is_text && *size > kMostText) {
        return "the label file " + name + " has " + std::to_string(*size) +
               " bytes, more than the " + std::to_string(kMostText) + " that are read";
      }
      if (is_text) index_.text += Contents(data, *size);
      index_.text_begin.push_back(index_.text.size());
      index_.offsets.push_back(offset_);
      index_.sizes.push_back(*size);
      index_.names.append(name.c_str(), name.size() + 1);
    }
    // The last file may lack its filling; then the next header is missing, which is a fault.
    offset_ = std::min(data + InBlocks(*size), file_.size());
    return {};
  }

  // The name in a file's own header; never empty.
  static std::string Name(const uint8_t* header) {
    std::string name = Text(header, kName);
    const bool posix = std::memcmp(header + kMagic.at, "ustar\0", 6) == 0;
    const std::string prefix = posix ? Text(header, kPrefix) : "";
    if (!prefix.empty()) name = prefix + "/" + name;
    return name.empty() ? "?" : name;
  }

  // Reads a header that is about the next file (or with 'g' about all that follow).
  std::string Extend(char type, uint64_t data, uint64_t size) {
    if (size > kMostText) {
      return "a header has " + std::to_string(size) + " bytes of names, more than the " +
             std::to_string(kMostText) + " that are read";
    }
    const std::string text = Contents(data, size);
    if (text.size() < size) return "the file ends within a header: it is truncated";
    if (type == 'L') {
      next_.name = text.substr(0, text.find('\0'));
      if (next_.name->empty()) return "the header of a file is damaged: its name is empty";
    } else if (type != 'K') {
      Extension* const to = type == 'g' ? &all_ : &next_;
      if (!ReadPax(text, to) || (to->name && to->name->empty())) return "a pax header is malformed";
      if (type == 'g') next_ = all_;
    }
    offset_ = std::min(data + InBlocks(size), file_.size());
    return {};
  }

  // Reads what follows the first block of zeros.
  std::string End() {
    ended_ = true;
    const uint64_t most = std::min(file_.size(), offset_ + kMostFilling);
    for (uint64_t at = offset_; at < most; at += kBlock) {
      const Span block = At(at, kBlock);
      if (!IsZero(block.data, block.size)) {
        index_.fault_offset = at;
        return "data follow the end of the archive; if several archives were joined, unpack them "
               "with tar --ignore-zeros and pack them again";
      }
    }
    return {};
  }

  const File& file_;
  TarIndex& index_;
  uint64_t offset_ = 0;
  bool ended_ = false;
  Extension next_, all_;
  // It holds many small files, so scanning them takes few system calls. Of a large file, little
  // more than the header is read.
  uint8_t window_[8 * kBlock];
  uint64_t begin_ = 0, end_ = 0;  // what is in the window
};

}  // namespace

TarIndex ScanTar(const std::string& path, const std::atomic<bool>* stop) {
  TarIndex index;
  try {
    const File file(path);
    Scanner(file, &index).Run(stop);
  } catch (const Unavailable& error) {
    index.fault = error.what();
    index.unavailable = true;
  } catch (const std::bad_alloc&) {
    index.fault = "there is not enough memory for its index";
    index.unavailable = true;
  }
  return index;
}

std::vector<TarIndex> ScanTars(const std::vector<std::string>& paths, int threads,
                               const std::function<bool()>& keep_on) {
  std::vector<TarIndex> archives(paths.size());
  ScanEach(paths.size(), threads, keep_on,
           [&](size_t i, const std::atomic<bool>* stop) { archives[i] = ScanTar(paths[i], stop); });
  return archives;
}

Span ReadMember(const File& file, uint64_t offset, uint32_t length, Scratch* buffer) {
  const uint64_t total = kBlock + length;
  const bool within = offset <= file.size() && total <= file.size() - offset;
  uint8_t* const member = buffer->Get(within ? static_cast<size_t>(total) : 0);
  if (!within || file.Read(offset, member, static_cast<size_t>(total)) != total) {
    throw Unavailable("the archive was truncated after it was indexed" + std::string(kChanged));
  }
  // A size that needs more digits than the header has is in another header.
  if (!IsSound(member) || Number(member, kSize) != length) {
    throw Unavailable(
        "the image is not where the index says: the archive was replaced after it was indexed" +
        std::string(kChanged));
  }
  return {member + kBlock, length};
}

}  // namespace pretexture
