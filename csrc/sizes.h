// Products of sizes, checked for overflow.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "error.h"

namespace pretexture {

// The product of `factors`. Throws Error if it overflows.
inline size_t CheckedProduct(std::initializer_list<size_t> factors) {
  size_t product = 1;
  for (const size_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) {
      throw Error("a batch of this size takes more memory than any machine has");
    }
  }
  return product;
}

}  // namespace pretexture
