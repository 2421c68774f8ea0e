// One view of an image: its geometry, and the changes of its colours.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "geometry.h"
#include "kernels.h"

namespace pretexture {

// Some rows of a view: three planes of n values each, in [0, 255]. If the view is grey, they are
// the same plane.
struct Strip {
  float* planes[3];
  size_t n;
  size_t first;  // pixel of the view
  size_t width;  // of a row

  bool gray() const { return planes[0] == planes[1]; }
  size_t distinct() const { return gray() ? 1 : 3; }
  // Calls `change` with each plane.
  template <typename Change>
  void Each(Change change) const {
    for (size_t c = 0; c < distinct(); ++c) change(planes[c]);
  }
};

// What a change of colours must know of the view besides the pixel that it changes.
enum class Needs { kNothing, kMeans, kNeighbors };

// The mean of each channel of a view; equal if the view is grey.
using Means = std::array<float, 3>;

// A change of colours with its draws. What they mean is up to `paint`, which makes the change. A
// change that needs neighbours is a blur, which the renderer makes itself.
struct ColorChange {
  void (*paint)(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                const Means& means);
  Needs needs = Needs::kNothing;
  bool makes_gray = false;   // whether `paint` changes the first plane only, to be used for all
  bool colors_gray = false;  // whether a grey view may have colours after it
  uint32_t order = 0;        // of the change's parts
  std::array<float, 4> amounts{};
  std::array<int, 4> rect{};  // top, left, height and width, pixels
  int radius = 0;             // of a blur, pixels; its standard deviation is amounts[0]

  bool operator==(const ColorChange& o) const {
    return paint == o.paint && needs == o.needs && makes_gray == o.makes_gray &&
           colors_gray == o.colors_gray && order == o.order && amounts == o.amounts &&
           rect == o.rect && radius == o.radius;
  }
};

// `row` and `column` describe the rows and columns of the output. If the view is `turned`, the rows
// of the output run along the columns of the source.
struct View {
  Axis row, column;
  bool turned = false;
  Sampling sampling;
  // Each decoded pixel becomes a third of the sum of its channels modulo 256. Then it does so in
  // all views of the image.
  bool wrapped_gray = false;
  std::vector<ColorChange> colors;

  const Axis& SourceY() const { return turned ? column : row; }
  const Axis& SourceX() const { return turned ? row : column; }

  // Whether the other view shows the same pixels, perhaps turned or mirrored.
  bool SamePixels(const View& o) const {
    return sampling == o.sampling && SourceY().SamePixels(o.SourceY()) &&
           SourceX().SamePixels(o.SourceX()) && colors == o.colors;
  }

  void Crop(int top, int left, int height, int width) {
    row.Crop(top, height);
    column.Crop(left, width);
  }

  void Resize(int height, int width, const Sampling& how) {
    row.Resize(height);
    column.Resize(width);
    sampling = how;
  }

  // A quarter turn counter-clockwise: row i of the result is column W - 1 - i of the view.
  void Turn() {
    std::swap(row, column);
    row.Flip();
    turned = !turned;
  }
};

}  // namespace pretexture
