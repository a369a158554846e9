// Text generation with a KV cache: prefill the prompt, then one token at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/model.h"

namespace meristem {

struct GenerateOptions {
  std::int64_t max_tokens = 200;
  double temperature = 0.8;               // 0: the most likely token
  std::int64_t top_k = 0;                 // 0: off
  double top_p = 1.0;                     // 1: off
  std::uint64_t seed = 1;                 // token i of the answer is a function of (seed, i) and the logits
  std::vector<std::int64_t> stop_tokens;  // end the answer, not part of it
};

// The answer's token ids, without the prompt. on_token (may be empty) sees each as it comes; returning false stops.
// InputError where the prompt is empty, an id is outside the vocabulary, or an option is out of range.
std::vector<std::int32_t> generate(Model& model, const DepthPlan& plan, std::int64_t vocab_size, const std::vector<std::int32_t>& prompt,
                                   const GenerateOptions& options, at::Device device, const std::function<bool(std::int32_t)>& on_token);

// One draw from logits [V] (float32, host) with `uniform` in [0, 1).
std::int32_t sample_token(const float* logits, std::int64_t vocab, const GenerateOptions& options, double uniform);

}  // namespace meristem
