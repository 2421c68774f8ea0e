// One view of one image: where each output pixel looks in the source.
//
// Crops, resizes, patch offsets, flips and quarter turns all compose into this, so that an image is
// resampled once however many steps the pipeline names. The two axes are independent; a quarter
// turn exchanges them.
#pragma once

#include <cstdint>
#include <vector>

namespace pretexture {

enum class Method { kBilinear, kNearest, kBicubic, kArea };

struct Sampling {
  Method method = Method::kBilinear;
  bool half_pixel = true;  // (i + 0.5) * scale - 0.5; else TensorFlow 1's i * scale
  bool antialias = false;  // widen the bilinear kernel by the scale where the image shrinks

  bool operator==(const Sampling& o) const {
    return method == o.method && half_pixel == o.half_pixel && antialias == o.antialias;
  }
};

// One dimension of a view. Source pixels begin..begin+size-1 form the window that the resize sees
// (its edges clamp); of the resized pixels, `count` from `first` on are kept.
struct Axis {
  int begin = 0;
  int size = 0;
  bool mirrored = false;   // the window is read backwards
  bool resampled = false;  // resized to `resized` pixels; else they are the window's own
  int resized = 0;
  int first = 0;
  int count = 0;
  bool reversed = false;  // the kept pixels come out backwards

  static Axis Whole(int size) { return {0, size, false, false, size, 0, size, false}; }

  // What the pipeline's steps do to an axis; each acts on what the ones before it give.
  void Crop(int offset, int length);
  void Resize(int length);
  void Flip() { reversed = !reversed; }

  // Whether the same pixels are kept, in whatever direction.
  bool SamePixels(const Axis& o) const {
    return begin == o.begin && size == o.size && mirrored == o.mirrored &&
           resampled == o.resampled && resized == o.resized && first == o.first && count == o.count;
  }
};

// For each of `count` outputs, `width` consecutive source pixels from `begin` + `start` on and
// their weights. All source pixels used are in begin..end-1.
struct Taps {
  int width = 0;
  int count = 0;
  int begin = 0, end = 0;
  std::vector<int32_t> start;  // [count]
  std::vector<float> weight;   // [width][count]

  // Recomputes them for an axis. The formulas are those of TensorFlow's resize kernels.
  void Build(const Axis& axis, const Sampling& sampling);

 private:
  std::vector<int32_t> first_, last_;
  std::vector<double> dense_;
};

}  // namespace pretexture
