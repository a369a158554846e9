// Multiple choice by log-likelihood: a model's score of a choice is the log-probability of the choice's tokens after the context's.
#pragma once

#include <cstdint>
#include <vector>

#include "distributed/ranks.h"
#include "models/model.h"

namespace meristem {

struct ChoiceItem {
  std::vector<std::int32_t> context;               // at least one token
  std::vector<std::vector<std::int32_t>> choices;  // each at least one token
};

// Positions that the longest context with its longest choice takes.
std::int64_t longest_positions(const std::vector<ChoiceItem>& items);

// [item][choice]: sum of log-probabilities of the choice's tokens, natural logarithm, under `plan`. Contexts are read once a choice, in
// batches of at most about `batch_tokens` tokens; the logits of a whole batch are never held (Model::loss). Ranks share the batches out;
// all of them get all scores, which are those of one rank to the bit.
// InputError names the item where a context or choice is empty or an id is outside the vocabulary.
std::vector<std::vector<double>> score_choices(Model& model, const DepthPlan& plan, std::int64_t vocab_size,
                                               const std::vector<ChoiceItem>& items, at::Device device, Ranks& ranks,
                                               std::int64_t batch_tokens = 8192);

}  // namespace meristem
