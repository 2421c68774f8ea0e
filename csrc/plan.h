// From the operations of a pipeline and the random draws of an image to the geometry and colours of
// its views. loader/language/ops.py describes the operations, loader/epoch/draws.py their draws.
#pragma once

#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include "geometry.h"
#include "philox.h"

namespace pretexture {

// The operations, with the names and fields of the dataclasses in loader/language/ops.py. `stream`
// numbers the sequence of random numbers that an operation draws from.
namespace op {
struct Views {
  uint32_t stream;
  int n;
};
struct Resize {
  uint32_t stream;
  int height, width;
  Method method;
  Coords coords;
  bool antialias;
  bool randomize;
};
struct ResizeSmall {
  uint32_t stream;
  int size;
};
struct Crop {
  uint32_t stream;
  int height, width;
  bool random;
};
struct InceptionCrop {
  uint32_t stream;
  std::array<double, 2> area, aspect;
  bool last_position;
};
struct CentralFraction {
  uint32_t stream;
  double fraction;
};
struct Flip {
  uint32_t stream;
};
struct Gray {
  uint32_t stream;
  double probability;
  bool wrap;
};
struct Distort {
  uint32_t stream;
  bool fast;
};
struct Patches {
  uint32_t stream;
  int n, jitter;
  bool random;
};
struct Jigsaw {
  uint32_t stream;
  std::vector<std::vector<int>> permutations;
  bool random;
};
struct Pair {
  uint32_t stream;
  bool random;
};
struct Rotate {
  uint32_t stream;
};
struct Normalize {
  uint32_t stream;
  std::array<float, 3> scale, bias;
};
struct Standardize {
  uint32_t stream;
};
}  // namespace op

using Op = std::variant<op::Views, op::Resize, op::ResizeSmall, op::Crop, op::InceptionCrop,
                        op::CentralFraction, op::Flip, op::Gray, op::Distort, op::Patches,
                        op::Jigsaw, op::Pair, op::Rotate, op::Normalize, op::Standardize>;

// A change of colours with its draws, on values in [0, 255].
struct ColorStep {
  enum class Kind { kGray, kDistort, kDistortSlow } kind = Kind::kGray;
  uint32_t order = 0;  // which of the orders of a distortion's parts
  float brightness = 0, saturation = 1, hue = 0, contrast = 1;

  bool operator==(const ColorStep& o) const {
    return kind == o.kind && order == o.order && brightness == o.brightness &&
           saturation == o.saturation && hue == o.hue && contrast == o.contrast;
  }
};

// One view of an image. `row` and `column` describe the rows and columns of the output. If it is
// `turned`, the rows of the output run along the columns of the source.
struct View {
  Axis row, column;
  bool turned = false;
  Sampling sampling;
  // Each decoded pixel becomes a third of the sum of its channels modulo 256. Then it does so in
  // all views of the image.
  bool wrapped_gray = false;
  std::vector<ColorStep> colors;

  const Axis& SourceY() const { return turned ? column : row; }
  const Axis& SourceX() const { return turned ? row : column; }
  // Whether the other view shows the same pixels, perhaps turned or mirrored.
  bool SamePixels(const View& o) const;
};

// The operations of a pipeline, ready to draw views from.
struct Plan {
  // Throws Error if `operations` cannot be combined.
  explicit Plan(std::vector<Op> operations);

  std::vector<Op> ops;

  // What is done to the values of every view in the end: x * scale + bias by channel, then
  // standardize.
  bool normalize = false;
  std::array<float, 3> scale{1, 1, 1}, bias{0, 0, 0};
  bool standardize = false;

  // Draws the views of an image of height x width pixels. Sets `labels` to the labels that a
  // pretext task gives the image, or clears it if there is no such task. Throws Error if the
  // operations do not fit the image.
  void Draw(int height, int width, const Draws& draws, std::vector<View>* views,
            std::vector<int32_t>* labels) const;
};

}  // namespace pretexture
