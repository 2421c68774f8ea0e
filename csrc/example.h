// Reads tf.train.Example from its wire format, without copying the image.
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
  Span image;                    // a part of the parsed data
  std::optional<int64_t> label;  // first value of the label feature, if it has one
};

// Finds the image and the label of a record. Throws Error if the data are malformed or have no
// image.
Example ParseExample(Span data, const std::string& image_key, const std::string& label_key);

// How class labels are stored in records.
struct LabelRule {
  std::string key;
  int offset = 1;  // is subtracted from the stored label
  bool required = false;
};

// The class label of the record `data`, which was parsed as `example`. It is -1 if the stored label
// is -1, or if the label feature is empty, or if it is missing and not required. Throws Error if
// the feature is required but missing, has values of another type, or if the label less the offset
// is below 0 or does not fit in 32 bits.
int32_t ClassLabel(Span data, const Example& example, const LabelRule& rule);

// The names of a record's features, for an error message. Throws Error if the data are malformed.
std::string FeatureNames(Span data);

}  // namespace pretexture
