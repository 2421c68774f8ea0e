// From the pipeline's operations and an image's random draws to the geometry and colours of its
// views. loader/ops.py describes the operations, loader/draws.py their draws.
#pragma once

#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include "geometry.h"
#include "philox.h"

namespace pretexture {

namespace op {
struct Views {
  uint32_t stream;
  int n;
};
struct Resize {
  uint32_t stream;
  int height, width;
  Sampling sampling;
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
  bool last_position = true;  // whether it may be drawn
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
  bool wrap = false;  // see loader/ops.py; then all views are of one draw
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
  int cells;  // patches in a group
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

// A colour operation with its draws; on values of [0, 255].
struct ColorStep {
  enum class Kind { kGray, kDistort, kDistortSlow } kind = Kind::kGray;
  uint32_t order = 0;
  float brightness = 0, saturation = 1, hue = 0, contrast = 1;

  bool operator==(const ColorStep& o) const {
    return kind == o.kind && order == o.order && brightness == o.brightness &&
           saturation == o.saturation && hue == o.hue && contrast == o.contrast;
  }
};

// One view. `row` and `column` are the axes of the output's rows and columns; where `turned`, the
// output's rows run along the source's columns.
struct View {
  Axis row, column;
  bool turned = false;
  Sampling sampling;
  bool wrapped_gray = false;  // the decoded pixels become the means of sums modulo 256
  std::vector<ColorStep> colors;

  const Axis& SourceY() const { return turned ? column : row; }
  const Axis& SourceX() const { return turned ? row : column; }
  // Whether the other view shows the same pixels, only turned or mirrored.
  bool SamePixels(const View& o) const;
};

struct Plan {
  std::vector<Op> ops;

  // What normalisation ends every view.
  bool normalize = false;
  std::array<float, 3> scale{1, 1, 1}, bias{0, 0, 0};
  bool standardize = false;

  // Whether all channels are normalised alike.
  bool NormalizesEvenly() const {
    return scale[0] == scale[1] && scale[1] == scale[2] && bias[0] == bias[1] && bias[1] == bias[2];
  }

  explicit Plan(std::vector<Op> operations);

  // The views of an image of height x width pixels and, where a pretext task sets them, its labels
  // (left empty where not). Throws Error where the image does not allow it.
  void Draw(int height, int width, const Draws& draws, std::vector<View>* views,
            std::vector<int32_t>* labels) const;
};

}  // namespace pretexture
