// The inner loops, compiled for several instruction sets from one source and chosen at run time.
//
// All of them are plain loops for the compiler to vectorise, and compute the same values bit for
// bit on every instruction set: nothing is contracted or reassociated beyond what is written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pretexture {

// By channel: (x - centre) * factor + bias.
struct Normalization {
  float centre[3] = {0, 0, 0};
  float factor[3] = {1, 1, 1};
  float bias[3] = {0, 0, 0};
};

struct Kernels {
  const char* name;

  // out[i] = sum over k of weights[k] * rows[k][i].
  void (*blend_rows)(const uint8_t* const* rows, const float* weights, int taps, size_t n,
                     float* out);

  // Resamples a row of interleaved RGB floats into three planes. Output i takes the pixels
  // start[i]..start[i]+taps-1 with the weights weights[k * n + i]. `line` must be readable for one
  // float past its last pixel.
  void (*sample_row)(const float* line, const int32_t* start, const float* weights, int taps,
                     size_t n, float* r, float* g, float* b);
  // The mean of the channels of each of n pixels.
  void (*mean_row)(const float* line, size_t n, float* out);
  // Resamples a row of one channel.
  void (*sample_plane)(const float* line, const int32_t* start, const float* weights, int taps,
                       size_t n, float* out);

  // Colour, on planes of values in [0, 255]. The planes must be different ones.
  void (*gray)(float* r, float* g, float* b, size_t n);
  void (*saturation)(float* r, float* g, float* b, size_t n, float factor);
  void (*hue)(float* r, float* g, float* b, size_t n, float turns);
  // On one plane.
  void (*brightness)(float* x, size_t n, float delta);
  void (*clip)(float* x, size_t n);
  void (*contrast)(float* x, size_t n, float mean, float factor);  // (x - mean) * factor + mean
  // All that the fast colour distortion does, in one go: brightness and saturation, in this order
  // or the other way round, then clip.
  void (*distort)(float* r, float* g, float* b, size_t n, float delta, float factor,
                  bool brightness_first);

  // Adds the sums of (x - pivot) and of its square to sums[0] and sums[1].
  void (*moments)(const float* x, size_t n, float pivot, double* sums);
  // x = x * scale + bias.
  void (*affine)(float* x, size_t n, float scale, float bias);

  // Write (x - centre) * factor + bias of each plane's values: as they are, rounded to float16, or
  // rounded and clamped to uint8; three planes interleaved, or one. The planes may be the same.
  void (*write_float)(const float* const* planes, size_t n, const Normalization& by, float* out);
  void (*write_half)(const float* const* planes, size_t n, const Normalization& by, uint16_t* out);
  void (*write_byte)(const float* const* planes, size_t n, const Normalization& by, uint8_t* out);
  void (*plane_float)(const float* x, size_t n, const Normalization& by, size_t channel,
                      float* out);
  void (*plane_half)(const float* x, size_t n, const Normalization& by, size_t channel,
                     uint16_t* out);
  void (*plane_byte)(const float* x, size_t n, const Normalization& by, size_t channel,
                     uint8_t* out);

  // Copies past the cache. Another thread may look at the copy once `fence` has been called.
  void (*stream)(const void* from, size_t size, void* to);
  void (*fence)();
};

// The best for this processor; PRETEXTURE_ISA=baseline|avx2|avx512 in the environment asks for a
// lesser one.
const Kernels& BestKernels();

// One instruction set's kernels by name; null where this build or this processor lacks it.
const Kernels* KernelsByName(const char* name);

}  // namespace pretexture
