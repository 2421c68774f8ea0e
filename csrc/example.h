// tf.train.Example read in place from its wire format: the image is found, not copied.
//
//   Example  { Features features = 1; }
//   Features { map<string, Feature> feature = 1; }        (entries: key = 1, value = 2)
//   Feature  { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }   (lists: value = 1)
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "span.h"

namespace pretexture {

struct Example {
  Span image;                    // within the parsed data
  std::optional<int64_t> label;  // the first value of the label's feature, if there is one
};

// Throws Error if the data are malformed or hold no image.
Example ParseExample(Span data, const std::string& image_key, const std::string& label_key);

// How class labels are stored.
struct LabelRule {
  std::string key;
  int offset = 1;  // subtracted from what is stored
  bool required = false;
};

// The class label of a parsed record. It is -1 if the stored one is -1, or if the label's feature
// is empty, or missing and not required. Throws Error if the feature is missing though required,
// holds no integers, or an integer that the offset takes below 0 or beyond 32 bits.
int32_t ClassLabel(Span data, const Example& example, const LabelRule& rule);

// The names of a record's features, for an error message. Throws Error if the data are malformed.
std::string FeatureNames(Span data);

}  // namespace pretexture
