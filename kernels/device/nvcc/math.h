// Numbers in registers: fast functions, bf16, arrays, and the tensor core with its loads (PTX ISA, "Matrix multiply-accumulate operation
// using mma instruction", "ldmatrix", "stmatrix").
#pragma once

#include <cstdint>

#include "device/base.h"

namespace meristem::kernels::device {

// An array that lives in registers: every index is a constant once loops are unrolled.
template <class T, int N>
struct Registers {
  T at[N];
  MERISTEM_DEVICE T& operator[](int i) { return at[i]; }
  MERISTEM_DEVICE const T& operator[](int i) const { return at[i]; }
};

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

// Four 8x8 matrices of 16-bit elements; lanes 8i to 8i + 7 give the rows of matrix i (16 bytes each, aligned).
MERISTEM_DEVICE void ldmatrix_x4(Registers<std::uint32_t, 4>& to, SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
MERISTEM_DEVICE void ldmatrix_x4_trans(Registers<std::uint32_t, 4>& to, SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
MERISTEM_DEVICE void stmatrix_x4(SharedAddress row, const Registers<std::uint32_t, 4>& from) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(from[0]), "r"(from[1]), "r"(from[2]),
               "r"(from[3])
               : "memory");
}
#endif

// c (16x8, fp32) += a (16x16, bf16, rows) * b (16x8, bf16, columns).
MERISTEM_DEVICE void mma_m16n8k16(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace meristem::kernels::device
