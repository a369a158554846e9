// The output head: from normed hidden states to logits and to the loss. Its weight [V, D] is its own or the embedding's.
#pragma once

#include "nn/module.h"
#include "ops/cross_entropy.h"
#include "ops/paths.h"

namespace meristem::nn {

using LossSums = ops::CrossEntropy;

// Cross-entropy sums over the targets (negative: none); the logits of the whole batch are never held (ops/cross_entropy.h).
inline LossSums head_loss(const at::Tensor& h_ND, const at::Tensor& weight_VD, const at::Tensor& targets_N, const ops::Paths& paths) {
  return ops::linear_cross_entropy(h_ND, weight_VD, targets_N, paths.cross_entropy);
}

// [N, V] of the compute type.
inline at::Tensor head_logits(const at::Tensor& h_ND, const at::Tensor& weight_VD) { return at::linear(h_ND, weight_VD); }

// Forward, per token.
inline double head_flops(std::int64_t vocab, std::int64_t width) { return 2.0 * static_cast<double>(vocab) * static_cast<double>(width); }

// Tokens whose logits head_loss holds at once.
inline std::int64_t head_chunk(std::int64_t vocab) { return ops::cross_entropy_chunk(vocab); }

}  // namespace meristem::nn
