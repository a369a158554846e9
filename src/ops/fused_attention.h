// Attention by our own kernel (kernels/attention): an autograd function around its two passes.
#pragma once

#include "ops/attention.h"

namespace meristem::ops {

// As causal_attention, for bf16 and head dims 64 and 128, with documents whose offsets are on the device. Reads the packed projection in
// place by its strides. Saves qkv, the result and its log-sum-exp; gradients are deterministic.
at::Tensor fused_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents);

}  // namespace meristem::ops
