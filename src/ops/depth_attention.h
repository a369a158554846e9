// Attention over depth: a token sees entries of its own earlier calls and no other token's. All entries of a token are visible to it, so
// there is no mask.
// Shapes: N tokens, H query heads, G key/value heads (G divides H), K head dim; keys and values hold one [N, G*K] an entry, M in all.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace meristem::ops {

// Per head softmax_i(q k_i / sqrt(K)) v_i over the M >= 1 entries. q: [N, H*K]; returns [N, H*K] of its type. Differentiable in all.
at::Tensor depth_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                           const HeadShape& shape, Path path);

// causal_attention (ops/attention.h) whose softmax runs over the sequence's keys and the token's own M >= 0 depth entries together, after
// MoDA (Zhu et al., 2026). Returns [N, H*K]. Differentiable in qkv_NC and the entries.
at::Tensor joint_attention(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                           const HeadShape& shape, const Segments& segments, Path path);

// Decoding: cached_attention with the t queries' own depth entries, [t, G*K] each. No gradient.
at::Tensor cached_joint_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<at::Tensor>& keys,
                                  const std::vector<at::Tensor>& values, const HeadShape& shape, Path path);

}  // namespace meristem::ops
