// The inner loops, compiled from one source for several instruction sets and chosen at run time.
//
// All are plain loops that the compiler vectorises. They compute the same values, bit for bit, on
// every instruction set: no operations are fused or reordered beyond what the source says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pretexture {

// By channel: (x - centre) * factor + bias.
struct Normalization {
  float centre[3] = {0, 0, 0};
  float factor[3] = {1, 1, 1};
  float bias[3] = {0, 0, 0};
};

// The functions of one instruction set. `n` is a number of values of one plane or row, or of pixels
// if the values are interleaved.
struct Kernels {
  const char* name;

  // Blends rows of pixels: out[i] = sum over k of weights[k] * rows[k][i], for `taps` rows.
  void (*blend_rows)(const uint8_t* const* rows, const float* weights, int taps, size_t n,
                     float* out);
  // The same for rows of floats.
  void (*blend_planes)(const float* const* rows, const float* weights, int taps, size_t n,
                       float* out);

  // Resamples a row of interleaved RGB floats into three planes. Output i is the sum of the pixels
  // start[i]..start[i]+taps-1 of the row, with the weights weights[k * n + i] for k in 0..taps-1.
  // One float past the last pixel of `line` must be readable.
  void (*sample_row)(const float* line, const int32_t* start, const float* weights, int taps,
                     size_t n, float* r, float* g, float* b);
  // The mean of the channels of each of n interleaved pixels, or their luma.
  void (*mean_row)(const float* line, size_t n, float* out);
  void (*luma_row)(const float* line, size_t n, float* out);
  // Resamples a row of one channel, in the same way.
  void (*sample_plane)(const float* line, const int32_t* start, const float* weights, int taps,
                       size_t n, float* out);

  // Set `r` to the mean of three different planes, or to their luma.
  void (*mean)(float* r, const float* g, const float* b, size_t n);
  void (*luma)(float* r, const float* g, const float* b, size_t n);
  // Change the colours of three different planes, with values in [0, 255]. `saturation` scales the
  // saturation of HSV; `blend_luma` is clip(x * factor + luma * (1 - factor)). `turns` is the angle
  // by which the hue turns, as a part of the whole circle.
  void (*saturation)(float* r, float* g, float* b, size_t n, float factor);
  void (*blend_luma)(float* r, float* g, float* b, size_t n, float factor);
  void (*hue)(float* r, float* g, float* b, size_t n, float turns);
  // Change one plane.
  void (*brightness)(float* x, size_t n, float delta);
  void (*clip)(float* x, size_t n);
  void (*contrast)(float* x, size_t n, float mean, float factor);  // (x - mean) * factor + mean
  void (*scale)(float* x, size_t n, float factor, float offset);   // clip(x * factor + offset)
  void (*solarize)(float* x, size_t n, float threshold);  // 255 - x if x >= threshold, or else x
  // The fast colour distortion in one pass: brightness and saturation in the order given, then
  // clip.
  void (*distort)(float* r, float* g, float* b, size_t n, float delta, float factor,
                  bool brightness_first);

  // A symmetric filter of 2 * radius + 1 taps: out[i] = weights[0] * taps[radius][i] + the sum of
  // weights[k] * (taps[radius - k][i] + taps[radius + k][i]) over k in 1..radius.
  void (*filter)(const float* const* taps, const float* weights, int radius, size_t n, float* out);

  // The sum of n values.
  double (*sum)(const float* x, size_t n);
  // Adds the sum of (x - pivot) to sums[0], and the sum of its squares to sums[1].
  void (*moments)(const float* x, size_t n, float pivot, double* sums);

  // Write (x - centre) * factor + bias: as floats, rounded to float16, or rounded and clamped to
  // uint8. `write_…` interleaves three planes, which may be the same one; `plane_…` writes one
  // plane, with the normalization of `channel`.
  void (*write_float)(const float* const* planes, size_t n, const Normalization& by, float* out);
  void (*write_half)(const float* const* planes, size_t n, const Normalization& by, uint16_t* out);
  void (*write_byte)(const float* const* planes, size_t n, const Normalization& by, uint8_t* out);
  void (*plane_float)(const float* x, size_t n, const Normalization& by, size_t channel,
                      float* out);
  void (*plane_half)(const float* x, size_t n, const Normalization& by, size_t channel,
                     uint16_t* out);
  void (*plane_byte)(const float* x, size_t n, const Normalization& by, size_t channel,
                     uint8_t* out);

  // Copies memory past the cache, which keeps what it holds. Other threads may read the copy once
  // `fence` has been called.
  void (*copy_past_cache)(const void* from, size_t size, void* to);
  void (*fence)();
};

// The functions of every instruction set that this build and this processor have, best first.
std::vector<const Kernels*> AvailableKernels();

// Those of the instruction set `name`. Throws std::invalid_argument, with the names that can be
// used, if it is unknown or not available.
const Kernels& KernelsByName(const std::string& name);

// Those of the instruction set that the environment variable PRETEXTURE_ISA names, or the best if
// it is unset or empty. Throws like KernelsByName.
const Kernels& BestKernels();

}  // namespace pretexture
