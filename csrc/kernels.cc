#include "kernels.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

namespace pretexture {

extern const Kernels kBaselineKernels;
#ifdef PRETEXTURE_X86_KERNELS
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

namespace {

// The names that are known on every machine, also if this build does not have them.
constexpr const char* kKnown[] = {"avx512", "avx2", "baseline"};

std::string Joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<const Kernels*> AvailableKernels() {
  std::vector<const Kernels*> available;
#ifdef PRETEXTURE_X86_KERNELS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    available.push_back(&kAvx512Kernels);
  }
  if (__builtin_cpu_supports("avx2")) available.push_back(&kAvx2Kernels);
#endif
  available.push_back(&kBaselineKernels);
  return available;
}

const Kernels& KernelsByName(const std::string& name) {
  std::vector<std::string> available;
  for (const Kernels* kernels : AvailableKernels()) {
    if (kernels->name == name) return *kernels;
    available.push_back(kernels->name);
  }
  const std::vector<std::string> known(std::begin(kKnown), std::end(kKnown));
  if (std::find(known.begin(), known.end(), name) != known.end()) {
    throw std::invalid_argument("the instruction set " + name +
                                " is not available: this build and processor have " +
                                Joined(available));
  }
  throw std::invalid_argument("'" + name + "' is not an instruction set: known are " +
                              Joined(known));
}

const Kernels& BestKernels() {
  const char* const name = std::getenv("PRETEXTURE_ISA");
  if (name == nullptr || *name == '\0') return *AvailableKernels().front();
  try {
    return KernelsByName(name);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("PRETEXTURE_ISA: " + std::string(error.what()));
  }
}

}  // namespace pretexture
