#define MERISTEM_CPU_LEVEL avx512
#include "ops/cpu/row_kernels.inc"
