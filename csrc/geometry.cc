#include "geometry.h"

#include <algorithm>
#include <cmath>

namespace pretexture {
namespace {

// The weights of the window's pixels lo..lo+weights.size()-1 in one output pixel.
struct Kernel {
  int lo = 0;
  std::vector<double> weights;

  void Reset(int first, int last) {
    lo = first;
    weights.assign(static_cast<size_t>(last - first + 1), 0.0);
  }
  void Add(int index, double weight) { weights[static_cast<size_t>(index - lo)] += weight; }
};

// Keys' cubic convolution kernel (1981), for |x| in [0, 1] and [1, 2].
double CubicInner(double x, double a) { return ((a + 2) * x - (a + 3)) * x * x + 1; }
double CubicOuter(double x, double a) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; }

void Bilinear(double position, int size, Kernel* kernel) {
  const double floor = std::floor(position);
  const double fraction = position - floor;
  const int lower = std::clamp(static_cast<int>(floor), 0, size - 1);
  const int upper = std::clamp(static_cast<int>(floor) + 1, 0, size - 1);
  kernel->Reset(lower, upper);
  kernel->Add(lower, 1 - fraction);
  kernel->Add(upper, fraction);
}

// Like TensorFlow: the fraction is rounded to 1/1024. Half-pixel sampling uses Keys' a = -0.5 and
// leaves out neighbours beyond the edge; TensorFlow 1 uses a = -0.75 and repeats the edge.
void Bicubic(double position, int size, bool half_pixel, Kernel* kernel) {
  const int floor = static_cast<int>(std::floor(position));
  const double x = std::nearbyint((position - floor) * 1024) / 1024;
  const double a = half_pixel ? -0.5 : -0.75;
  const double weights[4] = {CubicOuter(x + 1, a), CubicInner(x, a), CubicInner(1 - x, a),
                             CubicOuter(2 - x, a)};
  kernel->Reset(std::clamp(floor - 1, 0, size - 1), std::clamp(floor + 2, 0, size - 1));
  double sum = 0;
  for (int k = 0; k < 4; ++k) {
    const int index = floor - 1 + k;
    const int clamped = std::clamp(index, 0, size - 1);
    if (half_pixel && index != clamped) continue;
    kernel->Add(clamped, weights[k]);
    sum += weights[k];
  }
  if (half_pixel) {
    for (double& w : kernel->weights) w /= sum;
  }
}

// The mean over the source interval that output pixel `index` covers.
void Area(int index, double scale, int size, Kernel* kernel) {
  const double from = index * scale, to = (index + 1) * scale;
  const int first = std::clamp(static_cast<int>(std::floor(from)), 0, size - 1);
  const int last = std::clamp(static_cast<int>(std::ceil(to)) - 1, first, size - 1);
  kernel->Reset(first, last);
  for (int i = first; i <= last; ++i) {
    kernel->Add(i, (std::min(to, i + 1.0) - std::max(from, double(i))) / scale);
  }
}

// A kernel that is widened by the scale: a triangle, or Keys' kernel with a = -0.5. Its part beyond
// the edge is left out.
void Antialiased(bool cubic, double centre, double scale, int size, Kernel* kernel) {
  const double unit = std::max(scale, 1.0), radius = cubic ? 2 * unit : unit;
  const int first = std::clamp(static_cast<int>(std::ceil(centre - radius - 0.5)), 0, size - 1);
  const int last = std::clamp(static_cast<int>(std::floor(centre + radius - 0.5)), first, size - 1);
  kernel->Reset(first, last);
  double sum = 0;
  for (int i = first; i <= last; ++i) {
    const double x = std::abs(i + 0.5 - centre) / unit;
    const double weight = !cubic  ? std::max(0.0, 1 - x)
                          : x < 1 ? CubicInner(x, -0.5)
                          : x < 2 ? CubicOuter(x, -0.5)
                                  : 0;
    kernel->Add(i, weight);
    sum += weight;
  }
  for (double& w : kernel->weights) w /= sum;
}

// The weights of the window's pixels in resized pixel `index`.
void Resized(const Axis& axis, const Sampling& sampling, int index, Kernel* kernel) {
  const double scale = double(axis.size) / axis.resized;
  const bool half_pixel = sampling.coords == Coords::kHalfPixel;
  const double position = half_pixel ? (index + 0.5) * scale - 0.5 : index * scale;
  if (sampling.antialias) {
    const bool cubic = sampling.method == Method::kBicubic;
    return Antialiased(cubic, (index + 0.5) * scale, scale, axis.size, kernel);
  }
  switch (sampling.method) {
    case Method::kBilinear:
      return Bilinear(position, axis.size, kernel);
    case Method::kNearest: {
      const double at = half_pixel ? (index + 0.5) * scale : index * scale;
      const int nearest = std::clamp(static_cast<int>(std::floor(at)), 0, axis.size - 1);
      kernel->Reset(nearest, nearest);
      return kernel->Add(nearest, 1);
    }
    case Method::kBicubic:
      return Bicubic(position, axis.size, half_pixel, kernel);
    case Method::kArea:
      return Area(index, scale, axis.size, kernel);
  }
}

}  // namespace

void Axis::Crop(int offset, int length) {
  first += reversed ? count - offset - length : offset;
  count = length;
}

void Axis::Resize(int length) {
  begin += first;
  size = count;
  mirrored = reversed;
  resampled = true;
  resized = length;
  first = 0;
  count = length;
  reversed = false;
}

void Taps::Build(const Axis& axis, const Sampling& sampling) {
  count = axis.count;
  start.resize(static_cast<size_t>(count));
  if (!axis.resampled) {
    width = 1;
    weight.assign(static_cast<size_t>(count), 1.0f);
    for (int i = 0; i < count; ++i) {
      start[static_cast<size_t>(i)] = axis.reversed ? count - 1 - i : i;
    }
    begin = axis.begin + axis.first;
    end = begin + count;
    return;
  }

  // First each output with the pixels that it needs, then all of them with as many as the widest.
  first_.resize(static_cast<size_t>(count));
  last_.resize(static_cast<size_t>(count));
  dense_.clear();
  thread_local Kernel kernel;
  width = 1;
  for (int i = 0; i < count; ++i) {
    const int index = axis.first + (axis.reversed ? count - 1 - i : i);
    Resized(axis, sampling, index, &kernel);
    const int span = static_cast<int>(kernel.weights.size());
    if (axis.mirrored) {
      kernel.lo = axis.size - kernel.lo - span;
      std::reverse(kernel.weights.begin(), kernel.weights.end());
    }
    first_[static_cast<size_t>(i)] = kernel.lo;
    last_[static_cast<size_t>(i)] = span;
    width = std::max(width, span);
    dense_.insert(dense_.end(), kernel.weights.begin(), kernel.weights.end());
  }
  weight.assign(static_cast<size_t>(width) * static_cast<size_t>(count), 0.0f);
  begin = axis.begin + axis.size;
  end = axis.begin;
  const double* from = dense_.data();
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const int lo = std::min(first_[i], axis.size - width);
    for (int k = 0; k < last_[i]; ++k) {
      weight[static_cast<size_t>(first_[i] - lo + k) * static_cast<size_t>(count) + i] =
          static_cast<float>(*from++);
    }
    start[i] = axis.begin + lo;
    begin = std::min(begin, start[i]);
    end = std::max(end, start[i] + width);
  }
  for (int32_t& s : start) s -= begin;
}

}  // namespace pretexture
