// The operations of a branch of a pipeline, ready to draw the geometry and colours of an image's
// views from.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ops.h"
#include "philox.h"
#include "view.h"

namespace pretexture {

struct Plan {
  // Throws Error if `operations` cannot be combined.
  explicit Plan(std::vector<Op> operations);

  std::vector<Op> ops;

  // What is done to the values of every view in the end: x * scale + bias by channel, then
  // standardize.
  bool normalize = false;
  std::array<float, 3> scale{1, 1, 1}, bias{0, 0, 0};
  bool standardize = false;

  // Draws the views of an image of height x width pixels. Appends the labels that a pretext task
  // gives the image to `labels`. Throws Error if the operations do not fit the image.
  void Draw(int height, int width, const Draws& draws, std::vector<View>* views,
            std::vector<int32_t>* labels) const;
};

}  // namespace pretexture
