#define KERNELS_SYMBOL kBaselineKernels
#define KERNELS_NAME "baseline"
#include "kernels.inc"
