// Text generation: each prompt is read once, then every pass adds one token to each of a batch of texts, whose keys and values are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/model.h"

namespace meristem {

struct GenerateOptions {
  std::int64_t max_tokens = 200;
  double temperature = 0.8;               // 0: the most likely token
  std::int64_t top_k = 0;                 // 0: off
  double top_p = 1.0;                     // 1: off
  std::uint64_t seed = 1;                 // token i of prompt p's answer is a function of (seed + p, i) and the logits
  std::vector<std::int64_t> stop_tokens;  // end the answer, not part of it
  std::int64_t batch = 1;                 // answers that are written at once
};
inline constexpr std::int64_t kMostAtOnce = ops::kFewRows;

// Sees each token of prompt `number`'s answer as it comes; false ends that answer.
using OnToken = std::function<bool(std::size_t number, std::int32_t id)>;
// Sees each whole answer, in the order in which they end.
using OnAnswer = std::function<void(std::size_t number, const std::vector<std::int32_t>& answer)>;

// The answers' token ids, without the prompts; on_token and on_answer may be empty. On a CPU with kernels of our own each is what it would
// be alone, to the bit, whatever is in the batch beside it. InputError where a prompt is empty, an id is outside the vocabulary, or an
// option is out of range.
std::vector<std::vector<std::int32_t>> generate(Model& model, const DepthPlan& plan, std::int64_t vocab_size,
                                                const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options,
                                                at::Device device, const OnToken& on_token = {}, const OnAnswer& on_answer = {});

// Refuses options, or a prompt of which `name` says where it stands, as generate() does.
void check_options(const GenerateOptions& options, std::int64_t vocab_size);
void check_prompt(const std::vector<std::int32_t>& prompt, const std::string& name, std::int64_t vocab_size);

// One draw from logits [V] (float32, host) with `uniform` in [0, 1).
std::int32_t sample_token(const float* logits, std::int64_t vocab, const GenerateOptions& options, double uniform);

}  // namespace meristem
