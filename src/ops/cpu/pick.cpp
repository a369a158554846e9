#include "ops/cpu/row_kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace meristem::ops::cpu {

extern const RowKernels kRowKernels_baseline;
#if defined(__x86_64__)
extern const RowKernels kRowKernels_avx2;
extern const RowKernels kRowKernels_avx512;
extern const RowKernels kRowKernels_avx512bf16;
#endif

#if defined(__x86_64__)
namespace {

// For Intel's cores, which multiply pairs of bf16 at half the rate of fp32 (docs/results/cpu.md), AMD's at twice. Rows that are too few to
// repay turning a weight into fp32 are multiplied as pairs there too.
const RowKernels& avx512_of_intel() {
  static const RowKernels kernels = [] {
    RowKernels mixed = kRowKernels_avx512;
    mixed.bf16.few_rows = kRowKernels_avx512bf16.bf16.few_rows;
    return mixed;
  }();
  return kernels;
}

}  // namespace
#endif

void row_kernels_here(const RowKernels* (&levels)[kRowKernelLevels]) {
  int count = 0;
#if defined(__x86_64__)
  const bool v4 = __builtin_cpu_supports("x86-64-v4"), pairs = v4 && __builtin_cpu_supports("avx512bf16");
  if (pairs && !is_intel()) levels[count++] = &kRowKernels_avx512bf16;
  if (v4) levels[count++] = pairs && is_intel() ? &avx512_of_intel() : &kRowKernels_avx512;
  if (pairs && is_intel()) levels[count++] = &kRowKernels_avx512bf16;
  if (__builtin_cpu_supports("x86-64-v3")) levels[count++] = &kRowKernels_avx2;
#endif
  levels[count++] = &kRowKernels_baseline;
  while (count < kRowKernelLevels) levels[count++] = nullptr;
}

namespace {

const RowKernels*& current() {
  static const RowKernels* kernels = [] {
    const RowKernels* levels[kRowKernelLevels];
    row_kernels_here(levels);
    return levels[0];
  }();
  return kernels;
}

}  // namespace

const RowKernels& row_kernels() { return *current(); }

void use_row_kernels(const RowKernels& kernels) { current() = &kernels; }

bool is_intel() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

bool has_amx_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1u) != 0;
#else
  return false;
#endif
}

}  // namespace meristem::ops::cpu
