// Rotary position embedding (Su et al., 2021) in the half-split layout of Llama checkpoints, on the packed projection, alone or behind an
// RMSNorm of each head (QK norm).
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

inline constexpr int kRopeMaxHeadDim = 512;
inline constexpr int kRopePartials = 264;  // rows of partial sums of the gains' gradients

// Matrices of `rows` rows; element (r, c) of one is data[r * its stride + c]. Columns 0 to heads * head_dim - 1 are heads, of which element
// i < head_dim/2 is turned with element i + head_dim/2 by the angle of (positions[r], i). cos, sin: [positions, head_dim/2] fp32.
// Elements of type `element`, fp32 inside. 16 bytes at a time where head_dim/2, strides and addresses allow it. std::invalid_argument for
// an odd head_dim, one beyond kRopeMaxHeadDim, or a negative count.
struct RopeShape {
  std::int64_t rows;
  int heads, head_dim;
  Element element;
  const std::int32_t* positions;
  const float *cos, *sin;
};

// Turns the heads in place by sign times their angle: 1 forward, -1 back, which is the gradient. Other columns are not touched.
void rope(const RopeShape& shape, void* x, std::int64_t stride, float sign, Stream stream);

// QK norm: of the heads, the first query_heads have the gain q_gain, the others k_gain, [head_dim] fp32 each.
struct QkNorm {
  int query_heads;
  float eps;
  const float *q_gain, *k_gain;
};

// y = rope(x / sqrt(mean(x^2) + eps) * gain), head by head; the columns from heads * head_dim to columns - 1 are copied.
void qk_norm_rope_forward(const RopeShape& shape, const QkNorm& norm, int columns, const void* x, std::int64_t x_stride, void* y,
                          std::int64_t y_stride, Stream stream);

// With dz = dy turned back and x_hat = x / sqrt(mean(x^2) + eps):
//   dx = (gain dz - x_hat mean(gain dz x_hat)) / sqrt(mean(x^2) + eps);  the other columns are copied from dy, unless dx is dy
//   d_gains = sum over rows and heads of dz x_hat                        [2, head_dim] fp32, queries' and keys', overwritten
// partials: scratch of kRopePartials * 2 * head_dim floats. One order of summation for a number of multiprocessors: equal bits on every
// run. Two launches.
void qk_norm_rope_backward(const RopeShape& shape, const QkNorm& norm, int columns, const void* dy, std::int64_t dy_stride, const void* x,
                           std::int64_t x_stride, void* dx, std::int64_t dx_stride, float* d_gains, float* partials, Stream stream);

}  // namespace meristem::kernels
