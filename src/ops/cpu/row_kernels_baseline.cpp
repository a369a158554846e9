#define MERISTEM_CPU_LEVEL baseline
#include "ops/cpu/row_kernels.inc"
