// tf.train.Example: our parser compared with a simple one, which reads the whole message.
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "error.h"
#include "example.h"
#include "fuzz.h"

namespace pretexture {
namespace fuzz {
namespace {

struct Malformed {};

// One field of a message; `bytes` is its content, if it has a length.
struct Field {
  uint64_t number = 0;
  int type = 0;
  uint64_t value = 0;
  Bytes bytes;
};

uint64_t TakeVarint(Bytes::const_iterator* at, Bytes::const_iterator end) {
  uint64_t value = 0;
  for (int i = 0; i < 10; ++i) {
    if (*at == end) throw Malformed();
    const uint64_t byte = *(*at)++;
    value += (byte & 127) << (7 * i);
    if (byte < 128) return value;
  }
  throw Malformed();
}

std::vector<Field> Fields(const Bytes& message) {
  std::vector<Field> fields;
  for (auto at = message.begin(); at != message.end();) {
    Field field;
    const uint64_t tag = TakeVarint(&at, message.end());
    field.number = tag / 8;
    field.type = static_cast<int>(tag % 8);
    if (field.number == 0 || tag > UINT32_MAX) throw Malformed();
    uint64_t size = 0;
    if (field.type == 0) {
      field.value = TakeVarint(&at, message.end());
    } else if (field.type == 1) {
      size = 8;
    } else if (field.type == 2) {
      size = TakeVarint(&at, message.end());
    } else if (field.type == 5) {
      size = 4;
    } else {
      throw Malformed();
    }
    if (size > static_cast<uint64_t>(message.end() - at)) throw Malformed();
    field.bytes.assign(at, at + static_cast<std::ptrdiff_t>(size));
    at += static_cast<std::ptrdiff_t>(size);
    fields.push_back(std::move(field));
  }
  return fields;
}

struct Feature {
  uint64_t kind = 0;  // number of the list in the message, 0 if there is none
  std::vector<Bytes> bytes;
  std::vector<int64_t> integers;
  size_t floats = 0;  // bytes of them
  // Whether there are lists of several types, or a list with other contents. No writer makes these.
  bool odd = false;
};

Feature ParseFeature(const Bytes& message) {
  Feature feature;
  for (const Field& list : Fields(message)) {
    if (list.type != 2 || list.number > 3) continue;
    if (list.number != feature.kind) {
      const bool odd = feature.kind != 0 || feature.odd;
      feature = {};
      feature.odd = odd;
      feature.kind = list.number;
    }
    if (feature.kind == 2) feature.floats += list.bytes.size();
    if (feature.kind == 2) continue;
    for (const Field& item : Fields(list.bytes)) {
      feature.odd |= item.number != 1 || (item.type != 2 && (feature.kind == 1 || item.type != 0));
      if (item.number != 1) continue;
      if (feature.kind == 1 && item.type == 2) feature.bytes.push_back(item.bytes);
      if (feature.kind == 3 && item.type == 0) {
        feature.integers.push_back(static_cast<int64_t>(item.value));
      }
      if (feature.kind == 3 && item.type == 2) {
        for (auto at = item.bytes.begin(); at != item.bytes.end();) {
          feature.integers.push_back(static_cast<int64_t>(TakeVarint(&at, item.bytes.end())));
        }
      }
    }
  }
  return feature;
}

std::map<std::string, Feature> ParseAll(const Bytes& message) {
  std::map<std::string, Feature> features;
  for (const Field& part : Fields(message)) {
    if (part.number != 1 || part.type != 2) continue;
    for (const Field& entry : Fields(part.bytes)) {
      if (entry.number != 1 || entry.type != 2) continue;
      std::string key;
      Bytes value;
      for (const Field& side : Fields(entry.bytes)) {
        if (side.type == 2 && side.number == 1) key.assign(side.bytes.begin(), side.bytes.end());
        if (side.type == 2 && side.number == 2) value = side.bytes;
      }
      features[key] = ParseFeature(value);
    }
  }
  return features;
}

// The label that example.h promises for a record; nothing if it promises an error.
std::optional<int32_t> ExpectedLabel(const std::map<std::string, Feature>& features,
                                     const LabelRule& rule) {
  const auto found = features.find(rule.key);
  if (found == features.end()) {
    if (rule.required) return std::nullopt;
    return -1;
  }
  const Feature& feature = found->second;
  if (!feature.integers.empty()) {
    const __int128 stored = feature.integers.front(), label = stored - rule.offset;
    if (stored == -1) return -1;
    if (label < 0 || label > INT32_MAX) return std::nullopt;
    return static_cast<int32_t>(label);
  }
  const bool has_items = feature.kind == 2 ? feature.floats > 0 : !feature.bytes.empty();
  if (has_items) return std::nullopt;
  return -1;
}

void Compare(const Bytes& data, const LabelRule& rule) {
  const std::string image_key = "i";
  std::optional<Example> example;
  std::optional<int32_t> label;
  std::string error;
  try {
    example = ParseExample({data.data(), data.size()}, image_key, rule.key);
    label = ClassLabel({data.data(), data.size()}, *example, rule);
  } catch (const Error& thrown) {
    error = thrown.what();
    Require(!error.empty(), "an error without words");
    Require(error.size() < 1000, "an error of " + std::to_string(error.size()) + " bytes");
  }
  Bytes image;
  if (example) {
    const Span span = example->image;
    Require(span.size > 0 && span.data >= data.data() &&
                span.data + span.size <= data.data() + data.size(),
            "the image is not within the record");
    image.assign(span.data, span.data + span.size);
  }
  // Our parser skips parts that it does not need, so it may accept a record that is malformed
  // there.
  std::map<std::string, Feature> features;
  try {
    features = ParseAll(data);
  } catch (const Malformed&) {
    return;
  }
  const Feature& feature = features[image_key];
  const bool has_image = !feature.bytes.empty() && !feature.bytes.front().empty();
  Require(example.has_value() == has_image,
          has_image ? "the image is not found: " + error : "an image is found where none is");
  if (!example) return;
  Require(image == feature.bytes.front(), "the image is another");
  if (features.count(rule.key) && features[rule.key].odd) return;
  const std::optional<int32_t> expected = ExpectedLabel(features, rule);
  Require(label.has_value() == expected.has_value(),
          label ? "a label of " + std::to_string(*label) + " is found" : "no label: " + error);
  Require(label == expected, "the label is another");
}

}  // namespace
}  // namespace fuzz
}  // namespace pretexture

// The input is a record followed by a byte that chooses how labels are stored. Keys are short, so
// that mutations find them.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture;
  using namespace pretexture::fuzz;
  static constexpr int kOffsets[] = {1, 0, -1, INT32_MAX, INT32_MIN, 1000, -70, 2};
  Choices choices(data, size);
  const uint8_t choice = choices.Byte();
  LabelRule rule;
  rule.key = choice & 8 ? "i" : "l";
  rule.offset = kOffsets[choice & 7];
  rule.required = (choice & 16) != 0;
  Compare(choices.Rest(), rule);
  return 0;
}
