// Attention over depth with our CPU kernels: only each head's logsumexp is kept for backward.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace meristem::ops {

// As ops/depth_attention.h, for float32 and bfloat16 on the CPU.
at::Tensor depth_attention_cpu(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                               const HeadShape& shape, const SharedEntries& shared);
// The sequence's part is LibTorch's fused attention; the depth entries are joined to its output by its logsumexp. Backward gives that
// operator's backward the output and the logsumexp of the whole softmax: its weights and its sum of weighted gradients are then the
// whole's, and so are the gradients of its keys and values.
at::Tensor joint_attention_cpu(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                               const HeadShape& shape, const Documents& documents, const SharedEntries& shared);

}  // namespace meristem::ops
