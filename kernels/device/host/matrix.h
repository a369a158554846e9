// The tensor core and its loads, element by element as the PTX ISA's figures of the fragments give them.
#pragma once

#include <cstdint>

#include "device/host/block.h"
#include "device/host/registers.h"

namespace meristem::kernels::device {
namespace host {

void load_matrices(SharedAddress row, Registers<std::uint32_t, 4>& to, bool transposed, const Site& site);
void store_matrices(SharedAddress row, const Registers<std::uint32_t, 4>& from, const Site& site);
void multiply(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1, const Site& site);

}  // namespace host

// Four 8x8 matrices of 16-bit elements; lanes 8i to 8i + 7 give the rows of matrix i (16 bytes each, aligned).
inline void ldmatrix_x4(Registers<std::uint32_t, 4>& to, SharedAddress row, host::Site site = host::Site::current()) {
  host::load_matrices(row, to, false, site);
}
inline void ldmatrix_x4_trans(Registers<std::uint32_t, 4>& to, SharedAddress row, host::Site site = host::Site::current()) {
  host::load_matrices(row, to, true, site);
}
inline void stmatrix_x4(SharedAddress row, const Registers<std::uint32_t, 4>& from, host::Site site = host::Site::current()) {
  host::store_matrices(row, from, site);
}

// c (16x8, fp32) += a (16x16, bf16, rows) * b (16x8, bf16, columns).
inline void mma_m16n8k16(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1,
                         host::Site site = host::Site::current()) {
  host::multiply(c, a, b0, b1, site);
}

}  // namespace meristem::kernels::device
