// Our CUDA kernels over rows (kernels/rms_norm, rope, swiglu, cross_entropy, squared_norm), asynchronous on LibTorch's current stream.
// cuda_rows.cpp launches them; no_cuda_rows.cpp, in builds without CUDA, throws. Tensors are contiguous CUDA ones, float32 or bfloat16
// where nothing is said; gains, statistics, tables and losses float32.
#pragma once

#include "ops/rope.h"

namespace meristem::ops {

// h = x + update where update is defined, else x; y = norm of h times w. y, rstd [rows] and, with an update, h are written.
void rms_norm_cuda(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, const at::Tensor& h, const at::Tensor& y,
                   const at::Tensor& rstd);
// dh: the gradient that h has of its own, or undefined. Writes dx, returns the gradient of w.
at::Tensor rms_norm_backward_cuda(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& w, const at::Tensor& rstd,
                                  const at::Tensor& dh, const at::Tensor& dx);

void swiglu_cuda(const at::Tensor& gate_up, const at::Tensor& y);
void swiglu_backward_cuda(const at::Tensor& dy, const at::Tensor& gate_up, const at::Tensor& d_gate_up);

// Turns the first `heads` heads of each row by sign times their angle, in place.
void rope_cuda(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, float sign);
void qk_norm_rope_cuda(const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N, const RopeTable& table,
                       const at::Tensor& y_NC);
// dx_NC may be dy_NC. Returns the gradients of the two gains, [2, head_dim].
at::Tensor qk_norm_rope_backward_cuda(const at::Tensor& dy_NC, const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N,
                                      const RopeTable& table, const at::Tensor& dx_NC);

// losses_C of a chunk of logits; with_grad: the logits become their gradient.
void cross_entropy_cuda(const at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& losses_C, bool with_grad);

// The sum of squares of a flat float32 tensor as a float64 scalar.
at::Tensor squared_norm_cuda(const at::Tensor& flat);

}  // namespace meristem::ops
