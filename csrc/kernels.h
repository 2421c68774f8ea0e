// The inner loops, compiled for several instruction sets from one source and chosen at run time.
//
// All of them are plain loops for the compiler to vectorise, and compute the same values bit for
// bit on every instruction set: nothing is contracted or reassociated beyond what is written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pretexture {

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

  // Colour, on planes of values in [0, 255].
  void (*gray)(float* r, float* g, float* b, size_t n);
  void (*brightness)(float* r, float* g, float* b, size_t n, float delta);
  void (*saturation)(float* r, float* g, float* b, size_t n, float factor);
  void (*hue)(float* r, float* g, float* b, size_t n, float turns);
  void (*clip)(float* x, size_t n);
  // x = (x - mean) * factor + mean.
  void (*contrast)(float* x, size_t n, float mean, float factor);

  // Adds the sums of (x - pivot) and of its square to sums[0] and sums[1].
  void (*moments)(const float* x, size_t n, float pivot, double* sums);
  // x = (x - mean) * factor.
  void (*standardize)(float* x, size_t n, float mean, float factor);
  // x = x * scale + bias.
  void (*affine)(float* x, size_t n, float scale, float bias);

  // Writes three planes as they are, rounded to float16, or rounded and clamped to uint8;
  // interleaved or plane by plane, `plane` elements apart.
  void (*write_float)(const float* r, const float* g, const float* b, size_t n, float* out);
  void (*write_half)(const float* r, const float* g, const float* b, size_t n, uint16_t* out);
  void (*write_byte)(const float* r, const float* g, const float* b, size_t n, uint8_t* out);
  void (*plane_half)(const float* x, size_t n, uint16_t* out);
  void (*plane_byte)(const float* x, size_t n, uint8_t* out);

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
