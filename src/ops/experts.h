// A mixture of SwiGLU experts, dropless: every token reaches every expert that it chose, however uneven the choice is.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// Shapes: N tokens, D width, E experts, F inner width of each, k experts a token.
struct ExpertWeights {
  at::Tensor gate_up;  // [E, 2F, D], the gate's rows first
  at::Tensor down;     // [E, D, F]
};

// y_n = sum_j weights[n, j] * down_e swiglu(gate_up_e x_n) with e = chosen[n, j]. x_ND: [N, D] of the experts' type; chosen_Nk: int64 in
// [0, E), distinct in a row; weights_Nk: float32 (float64 where x is). Returns [N, D] of x's type. Differentiable in all but `chosen`.
// kReference: every expert on every token. Else tokens are sorted by expert and each group is one matrix product, without padding:
// at::_grouped_mm on CUDA in bf16, a product for each group elsewhere. kFused: sorted, moved and summed by our own kernels. On the CPU they
// multiply too, all groups in one go; a few tokens without gradients, and what they do not take (float64, odd widths in bf16), go the
// library's way. On CUDA: bf16 with widths that are multiples of 8; the host waits for nothing, and gradients are deterministic.
at::Tensor expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk, const ExpertWeights& experts,
                          Path path, Path swiglu_path);

// Its fused path on CUDA. Tests run it on tensors of the CPU, with the kernels' own source.
at::Tensor cuda_expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                               const ExpertWeights& experts, Path swiglu_path);

// x_NE: [N, E] -> [N, k], those that were chosen. Keeps the choice for backward, where at::gather keeps all of x.
at::Tensor chosen_scores(const at::Tensor& x_NE, const at::Tensor& chosen_Nk);

// How often each expert stands in chosen_Nk: [E] int64.
at::Tensor expert_counts(const at::Tensor& chosen_Nk, std::int64_t experts);

}  // namespace meristem::ops
