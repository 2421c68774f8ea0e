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

// Throws Error where the data are malformed or hold no image.
Example ParseExample(Span data, const std::string& image_key, const std::string& label_key);

}  // namespace pretexture
