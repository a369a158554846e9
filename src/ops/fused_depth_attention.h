// Attention over depth by our own CUDA kernels (kernels/depth_attention): autograd functions around their passes. Only the log-sum-exp is
// kept for backward; gradients are deterministic.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace meristem::ops {

// As depth_attention (ops/depth_attention.h), for bf16 and the shapes that meristem_kernels/depth_attention.h allows; at most
// kernels::kDepthEntries entries. Entries are read in place where their rows lie whole 16 bytes apart.
at::Tensor fused_depth_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                                 const HeadShape& shape);

}  // namespace meristem::ops
