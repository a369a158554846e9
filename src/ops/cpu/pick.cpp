#include "ops/cpu/row_kernels.h"

namespace meristem::ops::cpu {

extern const RowKernels kRowKernels_baseline;
#if defined(__x86_64__)
extern const RowKernels kRowKernels_avx2;
extern const RowKernels kRowKernels_avx512;
#endif

const RowKernels& row_kernels() {
#if defined(__x86_64__)
  static const RowKernels& best = __builtin_cpu_supports("x86-64-v4")   ? kRowKernels_avx512
                                  : __builtin_cpu_supports("x86-64-v3") ? kRowKernels_avx2
                                                                        : kRowKernels_baseline;
  return best;
#else
  return kRowKernels_baseline;
#endif
}

}  // namespace meristem::ops::cpu
