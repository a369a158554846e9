// Fast functions of one number, and bf16.
#pragma once

#include <cstdint>

#include "device/nvcc/macros.h"

namespace meristem::kernels::device {

// 2^x to 2 ulp; 0 at -infinity.
MERISTEM_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MERISTEM_DEVICE float log_fast(float x) { return __logf(x); }
// a / b to 2 ulp; 0 where b is infinite.
MERISTEM_DEVICE float divide_fast(float a, float b) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b));
  return a * reciprocal;
}
// To 1 ulp, the root to half.
MERISTEM_DEVICE float exp_accurate(float x) { return expf(x); }
MERISTEM_DEVICE float log_accurate(float x) { return logf(x); }
MERISTEM_DEVICE float square_root(float x) { return __fsqrt_rn(x); }
MERISTEM_DEVICE float larger(float a, float b) { return fmaxf(a, b); }  // the other one where one is a NaN

MERISTEM_DEVICE float as_float(std::uint32_t word) { return __uint_as_float(word); }
MERISTEM_DEVICE std::uint32_t as_word(float x) { return __float_as_uint(x); }
MERISTEM_DEVICE float infinity() { return __int_as_float(0x7F800000); }

// Two bf16 in a word, rounded to nearest even; `low` in the lower half.
MERISTEM_DEVICE std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
MERISTEM_DEVICE float low_bf16(std::uint32_t word) { return __uint_as_float(word << 16); }
MERISTEM_DEVICE float high_bf16(std::uint32_t word) { return __uint_as_float(word & 0xFFFF0000u); }

MERISTEM_DEVICE int count_bits(std::uint32_t word) { return __popc(word); }

}  // namespace meristem::kernels::device
