// Multiple choice by log-likelihood: a model's score of a choice is the log-probability of the choice's tokens after the context's.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/model.h"

namespace meristem {

struct ChoiceItem {
  std::vector<std::int32_t> context;               // at least one token
  std::vector<std::vector<std::int32_t>> choices;  // each at least one token
};

// Positions that the longest context with its longest choice takes.
std::int64_t longest_positions(const std::vector<ChoiceItem>& items);

// Batches 0, 1, … that items are put into: those that one of several scorers takes.
struct Share {
  std::size_t first = 0, step = 1;
};

// Tokens of a batch, where a caller does not say otherwise. A CPU reads what a layer wrote from its cache: a tenth faster than in batches
// of 8,192 with a model of 1.4 M parameters.
inline std::int64_t scoring_tokens(at::Device device) { return device.is_cpu() ? 3072 : 8192; }

// Hears after each batch how many choices of how many are scored or left to others.
using Scored = std::function<void(std::size_t done, std::size_t total)>;

// [item][choice]: sum of log-probabilities of the choice's tokens, natural logarithm, under `plan`. A context is read once, its choices go
// on from there, and so do contexts that begin alike (ops::Documents::beginnings), in batches of at most about `batch_tokens` (0:
// scoring_tokens) tokens, one item at least; the logits of a whole batch are never held (Model::loss). Choices of batches outside `share`
// have 0, and those inside are scored as they would be without it, to the bit. InputError names the item where a context or choice is empty
// or an id is outside the vocabulary.
std::vector<std::vector<double>> score_choices(Model& model, const DepthPlan& plan, std::int64_t vocab_size,
                                               const std::vector<ChoiceItem>& items, at::Device device, Share share = {},
                                               const Scored& scored = {}, std::int64_t batch_tokens = 0);

}  // namespace meristem
