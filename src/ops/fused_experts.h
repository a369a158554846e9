// Expert dispatch by our own CUDA kernels (kernels/experts): nothing that the host would have to wait for. Gradients are deterministic.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/experts.h"

namespace meristem::ops {

// As expert_mixture (ops/experts.h), for bf16 with widths that are multiples of 8. Counting, sorting, moving rows and summing are ours, the
// products grouped_linear's.
at::Tensor fused_expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                                const ExpertWeights& experts, Path swiglu_path);

}  // namespace meristem::ops
