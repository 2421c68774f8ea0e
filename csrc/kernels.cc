#include "kernels.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace pretexture {

extern const Kernels kBaselineKernels;
#ifdef PRETEXTURE_X86_KERNELS
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

const Kernels* KernelsByName(const char* name) {
#ifdef PRETEXTURE_X86_KERNELS
  if (std::strcmp(name, "avx512") == 0) {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has ? &kAvx512Kernels : nullptr;
  }
  if (std::strcmp(name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") ? &kAvx2Kernels : nullptr;
  }
#endif
  return std::strcmp(name, "baseline") == 0 ? &kBaselineKernels : nullptr;
}

const Kernels& BestKernels() {
  static const Kernels* const best = [] {
    if (const char* asked = std::getenv("PRETEXTURE_ISA")) {
      if (const Kernels* found = KernelsByName(asked)) return found;
    }
    for (const char* name : {"avx512", "avx2"}) {
      if (const Kernels* found = KernelsByName(name)) return found;
    }
    return &kBaselineKernels;
  }();
  return *best;
}

}  // namespace pretexture
