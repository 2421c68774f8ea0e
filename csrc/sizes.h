// Products and sums of sizes, checked for overflow.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "error.h"

namespace pretexture {

constexpr char kTooLarge[] = "a batch of this size takes more memory than any machine has";

// The product of `factors`. Throws Error if it overflows.
inline size_t CheckedProduct(std::initializer_list<size_t> factors) {
  size_t product = 1;
  for (const size_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) throw Error(kTooLarge);
  }
  return product;
}

// a + b. Throws Error if it overflows.
inline size_t CheckedSum(size_t a, size_t b) {
  size_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) throw Error(kTooLarge);
  return sum;
}

}  // namespace pretexture
