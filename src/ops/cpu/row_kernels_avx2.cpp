#define MERISTEM_CPU_LEVEL avx2
#include "ops/cpu/row_kernels.inc"
