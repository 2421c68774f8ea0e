#include "example.h"

#include <cstring>

#include "error.h"

namespace pretexture {
namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Walks the fields of one message. Every length is checked against what is left.
class Reader {
 public:
  explicit Reader(Span span) : p_(span.data), end_(span.data + span.size) {}

  // Moves to the next field; false at the end.
  bool Next() {
    if (p_ == end_) return false;
    const uint64_t tag = Varint();
    if (tag > UINT32_MAX || tag < 8) Malformed();
    field_ = static_cast<uint32_t>(tag >> 3);
    type_ = static_cast<uint32_t>(tag & 7);
    return true;
  }

  bool Is(uint32_t field, WireType type) const { return field_ == field && type_ == type; }

  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (p_ == end_) Malformed();
      const uint8_t byte = *p_++;
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    Malformed();
  }

  Span Bytes() {
    const uint64_t size = Varint();
    if (size > static_cast<uint64_t>(end_ - p_)) Malformed();
    const Span span{p_, static_cast<size_t>(size)};
    p_ += size;
    return span;
  }

  void Skip() {
    switch (type_) {
      case kVarint:
        Varint();
        return;
      case kFixed64:
        return Advance(8);
      case kBytes:
        Bytes();
        return;
      case kFixed32:
        return Advance(4);
      default:
        Malformed();
    }
  }

 private:
  [[noreturn]] static void Malformed() { throw Error("not a well-formed tf.train.Example"); }

  void Advance(std::ptrdiff_t size) {
    if (end_ - p_ < size) Malformed();
    p_ += size;
  }

  const uint8_t* p_;
  const uint8_t* end_;
  uint32_t field_ = 0;
  uint32_t type_ = 0;
};

bool Equals(Span span, const std::string& text) {
  return span.size == text.size() &&
         (text.empty() || std::memcmp(span.data, text.data(), text.size()) == 0);
}

constexpr uint32_t kBytesList = 1;
constexpr uint32_t kFloatList = 2;
constexpr uint32_t kInt64List = 3;

// What `first` finds in a Feature's list of `kind`. A list that comes in pieces is one list, and of
// lists of several kinds the last counts, as protocol buffers merge them.
template <typename First>
auto FirstOf(Span feature, uint32_t kind, First first) -> decltype(first(feature)) {
  decltype(first(feature)) value;
  for (Reader reader(feature); reader.Next();) {
    if (reader.Is(kind, kBytes)) {
      const Span list = reader.Bytes();
      if (!value) value = first(list);
      continue;
    }
    for (const uint32_t other : {kBytesList, kFloatList, kInt64List}) {
      if (reader.Is(other, kBytes)) value.reset();
    }
    reader.Skip();
  }
  return value;
}

std::optional<int64_t> FirstInt64(Span list) {
  for (Reader reader(list); reader.Next();) {
    if (reader.Is(1, kBytes)) {  // packed
      const Span packed = reader.Bytes();
      if (packed.size > 0) return static_cast<int64_t>(Reader(packed).Varint());
    } else if (reader.Is(1, kVarint)) {
      return static_cast<int64_t>(reader.Varint());
    } else {
      reader.Skip();
    }
  }
  return std::nullopt;
}

std::optional<Span> FirstBytes(Span list) {
  for (Reader reader(list); reader.Next();) {
    if (reader.Is(1, kBytes)) return reader.Bytes();
    reader.Skip();
  }
  return std::nullopt;
}

}  // namespace

Example ParseExample(Span data, const std::string& image_key, const std::string& label_key) {
  Span image_feature, label_feature;
  for (Reader example(data); example.Next();) {
    if (!example.Is(1, kBytes)) {
      example.Skip();
      continue;
    }
    for (Reader features(example.Bytes()); features.Next();) {
      if (!features.Is(1, kBytes)) {
        features.Skip();
        continue;
      }
      Span key, value;
      for (Reader entry(features.Bytes()); entry.Next();) {
        if (entry.Is(1, kBytes)) {
          key = entry.Bytes();
        } else if (entry.Is(2, kBytes)) {
          value = entry.Bytes();
        } else {
          entry.Skip();
        }
      }
      // Where a key comes twice, the last one counts, as in any protobuf map.
      if (Equals(key, image_key)) image_feature = value;
      if (Equals(key, label_key)) label_feature = value;
    }
  }
  Example example;
  example.image = FirstOf(image_feature, kBytesList, FirstBytes).value_or(Span());
  if (example.image.size == 0) {
    throw Error("the record has no feature '" + image_key + "' with bytes in it");
  }
  example.label = FirstOf(label_feature, kInt64List, FirstInt64);
  return example;
}

}  // namespace pretexture
