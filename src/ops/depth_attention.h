// Attention over depth: a token sees entries of its own earlier calls and no other token's. All entries of a token are visible to it, so
// there is no mask.
// Shapes: N tokens, H query heads, G key/value heads (G divides H), K head dim; keys and values hold one [N, G*K] an entry, M in all.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include "ops/attention.h"

namespace meristem::ops {

// Where the calls of one forward pass gather the gradients of entries that several of them read, instead of a tensor for each call and
// entry that autograd then sums: that is most of what reading an entry again costs. In backward every call adds to `grads`; the first
// one that read an entry comes last and hands its sum on. One object serves one forward and one whole backward pass, of calls that each
// depend on the output of the one before; gradients with respect to the entries themselves cannot be asked for.
struct DepthGradients : c10::intrusive_ptr_target {
  struct Side {
    std::vector<at::Tensor> grads;  // by entry; undefined until a call has added to it
    std::size_t read = 0;           // entries that a call before has read
  };
  Side keys, values;
};

// The first `keys` keys and `values` values of a call are those of other calls, too. of: null where nothing is gathered.
struct SharedEntries {
  c10::intrusive_ptr<DepthGradients> of;
  std::size_t keys = 0, values = 0;
};

// Per head softmax_i(q k_i / sqrt(K)) v_i over the M >= 1 entries. q: [N, H*K]; returns [N, H*K] of its type. Differentiable in all.
at::Tensor depth_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                           const HeadShape& shape, Path path, const SharedEntries& shared = {});

// What depth_attention gives each entry: [N, H, M], of sum 1, in the type of reductions. For those who look at it.
at::Tensor depth_attention_weights(const at::Tensor& q, const std::vector<at::Tensor>& keys, const HeadShape& shape);

// causal_attention (ops/attention.h) whose softmax runs over the sequence's keys and the token's own M >= 0 depth entries together, after
// MoDA (Zhu et al., 2026). Returns [N, H*K]. Differentiable in qkv_NC and the entries.
at::Tensor joint_attention(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                           const HeadShape& shape, const Documents& documents, Path path, const SharedEntries& shared = {});

// What joint_attention gives each of the M >= 1 depth entries: [N, H, M]; the rest of 1 went to the sequence's keys.
at::Tensor joint_depth_weights(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const HeadShape& shape,
                               const Documents& documents);

// Decoding: cached_attention with the queries' own depth entries, [N, G*K] each. No gradient.
at::Tensor cached_joint_attention(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const std::vector<at::Tensor>& keys,
                                  const std::vector<at::Tensor>& values, const HeadShape& shape, const Documents& documents, Path path);

}  // namespace meristem::ops
