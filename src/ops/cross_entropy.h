// The head and the loss in one operator: logits = h W^T, loss = sum over tokens of logsumexp(logits) - logits[target].
// The logits exist for one chunk of tokens at a time, so memory does not grow with tokens x vocabulary. The gradient is computed in the
// same pass (softmax - onehot, then its two matrix products), so that nothing is recomputed in backward.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

struct CrossEntropy {
  at::Tensor loss_sum;  // [] float32 (float64 for float64 input), differentiable
  at::Tensor losses_N;  // [N] the same type, 0 where ignored; not differentiable
};

// hidden_ND and weight_VD: one float type; targets_N: int32, negative where the token has no target. Sums, not means: micro-batches,
// ranks and masked tokens are divided once, by the global number of targets. logit_cap above 0: logits are cap tanh(h W^T / cap).
// products: the path of the three matrix products.
CrossEntropy linear_cross_entropy(const at::Tensor& hidden_ND, const at::Tensor& weight_VD, const at::Tensor& targets_N, Path path,
                                  double logit_cap = 0, Path products = Path::kLibrary);

// Logits that a GPU with so many free bytes holds at once in bf16: an eighth of these bytes' worth, at least 128 Mi, at most 1 Gi.
std::int64_t cross_entropy_logits(std::int64_t free_bytes);

// Tokens whose logits are held at once for a vocabulary, with hidden states of `width`. On a GPU the first call of a process looks how much
// memory is free, and every later one goes by that, so that steps and captured graphs have the same chunks; where deterministic algorithms
// are asked for, memory plays no part.
std::int64_t cross_entropy_chunk(std::int64_t vocab, std::int64_t width, at::Device device = at::kCPU);

}  // namespace meristem::ops
