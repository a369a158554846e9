// What the RoPE kernels are launched with.
#pragma once

#include "meristem_kernels/rope.h"

namespace meristem::kernels::detail {

// A matrix inside a wider one: row r begins at data + r * stride.
template <class X>
struct RopeRows {
  X* data;
  std::int64_t stride;
};

template <class X>
struct RopeParameters {
  std::int64_t rows;
  int heads, half;  // half: of the head dim
  int lanes;        // of a warp that share a head: a power of two, each with up to 8 pairs
  int columns;      // those from heads * 2 * half on are copied, unless source and destination are one
  bool vectorised;
  const std::int32_t* positions;
  const float *cos, *sin;
  float sign;
  QkNorm norm;          // q_gain null: none
  RopeRows<const X> x;  // what the norm is taken of; without one, what is turned
  RopeRows<const X> dy;
  RopeRows<X> out;  // y or dx
  float* partials;  // [blocks, 2, 2 half]
};

// The instantiations of the .cu files. Backward without a norm is forward with the other sign.
template <class X>
void launch_rope(const RopeParameters<X>& p, Stream stream);
template <class X>
void launch_qk_norm_rope(const RopeParameters<X>& p, Stream stream);
template <class X>
void launch_qk_norm_rope_backward(const RopeParameters<X>& p, float* d_gains, Stream stream);

}  // namespace meristem::kernels::detail
