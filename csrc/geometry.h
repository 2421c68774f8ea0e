// The geometry of a view: which source pixels each output pixel is made of.
//
// Crops, resizes, patch offsets, flips and quarter turns compose into one map, so an image is
// resampled only once, whatever the number of steps. The two axes are independent of each other,
// and a quarter turn exchanges them.
#pragma once

#include <cstdint>
#include <vector>

namespace pretexture {

// In the order in which a random resize draws one.
enum class Method { kBilinear, kNearest, kBicubic, kArea };

// Where output pixel i is in the source: at (i + 0.5) * scale - 0.5, or at i * scale as in
// TensorFlow 1.
enum class Coords { kHalfPixel, kTf1 };

struct Sampling {
  Method method = Method::kBilinear;
  Coords coords = Coords::kHalfPixel;
  bool antialias = false;  // widen the kernel by the scale if the image shrinks

  bool operator==(const Sampling& o) const {
    return method == o.method && coords == o.coords && antialias == o.antialias;
  }
};

// One dimension of a view, in pixels. The source pixels begin..begin+size-1 are the window that is
// resized; beyond its edges, the pixels at the edge are repeated. Of the resized pixels,
// first..first+count-1 are kept.
struct Axis {
  int begin = 0;
  int size = 0;
  bool mirrored = false;   // the window is read backwards
  bool resampled = false;  // whether the window is resized to `resized` pixels at all
  int resized = 0;
  int first = 0;
  int count = 0;
  bool reversed = false;  // the kept pixels are put out backwards

  static Axis Whole(int size) { return {0, size, false, false, size, 0, size, false}; }

  // Each of these acts on the result of the ones before it.
  void Crop(int offset, int length);
  void Resize(int length);
  void Flip() { reversed = !reversed; }

  // Whether the same pixels are kept, in either direction.
  bool SamePixels(const Axis& o) const {
    return begin == o.begin && size == o.size && mirrored == o.mirrored &&
           resampled == o.resampled && resized == o.resized && first == o.first && count == o.count;
  }
};

// The source pixels and weights of each of `count` outputs along an axis: output i is the sum of
// the `width` pixels from begin + start[i] on, with the weights weight[k * count + i]. All pixels
// used are in begin..end-1.
struct Taps {
  int width = 0;
  int count = 0;
  int begin = 0, end = 0;
  std::vector<int32_t> start;  // [count]
  std::vector<float> weight;   // [width][count]

  // Computes the taps of an axis, with the formulas of TensorFlow's resize kernels.
  void Build(const Axis& axis, const Sampling& sampling);

 private:
  std::vector<int32_t> first_, last_;
  std::vector<double> dense_;
};

}  // namespace pretexture
