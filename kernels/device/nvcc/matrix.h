// The tensor core and its loads (PTX ISA, "Matrix multiply-accumulate operation using mma instruction", "ldmatrix", "stmatrix").
#pragma once

#include <cstdint>

#include "device/nvcc/macros.h"
#include "device/nvcc/registers.h"
#include "device/types.h"

namespace meristem::kernels::device {

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
