#define KERNELS_SYMBOL kAvx512Kernels
#define KERNELS_NAME "avx512"
#include "kernels.inc"
