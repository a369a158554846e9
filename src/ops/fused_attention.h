// Attention by our own kernel (kernels/attention): an autograd function around its two passes.
#pragma once

#include "ops/attention.h"

namespace meristem::ops {

// int32 [segments + 1 or more] on `device`: what the batch brought along, else made from the lengths, which copies from the host.
at::Tensor segment_offsets(const Segments& segments, at::Device device);

// As causal_attention, for bf16 and head dims 64 and 128. Reads the packed projection in place by its strides. A token sees the window_left
// tokens before itself; negative: all. Saves qkv, the result and its log-sum-exp; gradients are deterministic.
at::Tensor fused_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const at::Tensor& offsets, std::int64_t window_left = -1);

}  // namespace meristem::ops
