#include "example.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "error.h"

namespace pretexture {
namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Goes through the fields of one message. Checks every length against the bytes that are left.
class Reader {
 public:
  explicit Reader(Span span) : p_(span.data), end_(span.data + span.size) {}

  // Moves to the next field. Returns false at the end.
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

// Calls visit(key, value) for every feature.
template <typename Visit>
void EachFeature(Span data, Visit visit) {
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
      visit(key, value);
    }
  }
}

// A name from a file in quotes, for a message: at most 40 bytes of it, without control characters.
std::string Quoted(Span name) {
  constexpr size_t kMost = 40;
  std::string text = "'";
  for (size_t i = 0; i < std::min(name.size, kMost); ++i) {
    const uint8_t byte = name.data[i];
    if (byte >= 0x20 && byte < 0x7f) {
      text += static_cast<char>(byte);
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
      text += escaped;
    }
  }
  return text + (name.size > kMost ? "…'" : "'");
}

constexpr uint32_t kBytesList = 1;
constexpr uint32_t kFloatList = 2;
constexpr uint32_t kInt64List = 3;

// The result of `first` for a Feature's list of type `kind`. Like protocol buffers, it merges a
// list that comes in pieces, and if there are lists of several types, the last one counts.
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
  EachFeature(data, [&](Span key, Span value) {
    // If a key occurs twice, the last one counts, as in any protobuf map.
    if (Equals(key, image_key)) image_feature = value;
    if (Equals(key, label_key)) label_feature = value;
  });
  Example example;
  example.image = FirstOf(image_feature, kBytesList, FirstBytes).value_or(Span());
  if (example.image.size == 0) {
    throw Error("the record has no feature '" + image_key + "' with bytes in it; " +
                FeatureNames(data));
  }
  example.label = FirstOf(label_feature, kInt64List, FirstInt64);
  return example;
}

int32_t ClassLabel(Span data, const Example& example, const LabelRule& rule) {
  if (example.label) {
    if (*example.label == -1) return -1;
    int64_t label;
    const bool fits = !__builtin_sub_overflow(*example.label, int64_t{rule.offset}, &label);
    if (fits && label >= 0 && label <= INT32_MAX) return static_cast<int32_t>(label);
    const std::string stored = "the label " + std::to_string(*example.label);
    const std::string offset = "label_offset=" + std::to_string(rule.offset);
    if (*example.label > 0 && *example.label >= rule.offset) {
      throw Error(stored + " less " + offset + " does not fit in 32 bits");
    }
    throw Error(stored + " less " + offset + " is below 0" +
                (*example.label == 0 ? "; if labels count from 0, use label_offset=0" : ""));
  }
  bool found = false;
  Span feature;
  EachFeature(data, [&](Span key, Span value) {
    if (!Equals(key, rule.key)) return;
    found = true;
    feature = value;
  });
  if (!found) {
    if (!rule.required) return -1;
    throw Error("the record has no label feature '" + rule.key + "'; " + FeatureNames(data));
  }
  const char* kind = nullptr;
  for (Reader reader(feature); reader.Next();) {
    const bool bytes = reader.Is(kBytesList, kBytes), floats = reader.Is(kFloatList, kBytes);
    const bool integers = reader.Is(kInt64List, kBytes);
    if (!bytes && !floats && !integers) {
      reader.Skip();
    } else if (reader.Bytes().size > 0 || integers) {  // an empty list has no type
      kind = bytes ? "bytes" : floats ? "floating-point numbers" : nullptr;
    }
  }
  if (kind != nullptr) {
    throw Error("the label feature '" + rule.key + "' holds " + kind +
                "; a class label is an int64");
  }
  return -1;
}

std::string FeatureNames(Span data) {
  constexpr size_t kMost = 12;
  size_t count = 0;
  std::string names;
  EachFeature(data, [&](Span key, Span) {
    if (++count <= kMost) names += (count > 1 ? ", " : "") + Quoted(key);
  });
  if (count == 0) return "it has no features";
  if (count > kMost) names += " and " + std::to_string(count - kMost) + " more";
  return "it has " + names;
}

}  // namespace pretexture
