// Attention over depth by our own CUDA kernels (kernels/depth_attention): autograd functions around their passes. Only the log-sum-exp is
// kept for backward; gradients are deterministic.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/depth_attention.h"

namespace meristem::ops {

// As depth_attention (ops/depth_attention.h), for bf16 and the shapes that meristem_kernels/depth_attention.h allows; at most
// kernels::kDepthEntries entries. Entries are read in place where their rows lie whole 16 bytes apart.
at::Tensor fused_depth_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                                 const HeadShape& shape, const SharedEntries& shared = {});

// As joint_attention, for bf16 and head dims 64 and 128: the sequence's part is kernels/attention, whose output and log-sum-exp the depth
// entries join. Backward gives that kernel's backward the output and the log-sum-exp of the whole softmax: its weights and its sum of
// weighted gradients are then the whole's, and so are the gradients of its keys and values; the entries' part is added to the queries'
// gradient. Reads documents.offsets.
at::Tensor fused_joint_attention(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                                 const HeadShape& shape, const Documents& documents, const SharedEntries& shared = {});

}  // namespace meristem::ops
