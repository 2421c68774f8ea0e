#define KERNELS_SYMBOL kAvx2Kernels
#define KERNELS_NAME "avx2"
#include "kernels.inc"
