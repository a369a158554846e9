#include "eval/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/counter_rng.h"
#include "core/errors.h"

namespace meristem {
namespace {

void check(const std::vector<std::int32_t>& prompt, const GenerateOptions& options, std::int64_t vocab_size) {
  if (prompt.empty()) throw InputError("prompt: is empty; give at least one token");
  for (const std::int32_t id : prompt) {
    if (id < 0 || id >= vocab_size) throw InputError(fmt::format("prompt: token id {} is outside the vocabulary of {}", id, vocab_size));
  }
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    throw InputError(fmt::format("temperature: found {}; allowed: a number >= 0", options.temperature));
  }
  if (options.top_k < 0) throw InputError(fmt::format("top-k: found {}; allowed: >= 0", options.top_k));
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw InputError(fmt::format("top-p: found {}; allowed: above 0, at most 1", options.top_p));
  for (const std::int64_t id : options.stop_tokens) {
    if (id < 0 || id >= vocab_size) throw InputError(fmt::format("stop-id: token id {} is outside the vocabulary of {}", id, vocab_size));
  }
  if (options.max_tokens < 0) throw InputError(fmt::format("max-tokens: found {}; allowed: >= 0", options.max_tokens));
}

}  // namespace

std::int32_t sample_token(const float* logits, std::int64_t vocab, const GenerateOptions& options, double uniform) {
  if (options.temperature == 0) return static_cast<std::int32_t>(std::max_element(logits, logits + vocab) - logits);
  std::vector<std::int32_t> order(static_cast<std::size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0) order.resize(static_cast<std::size_t>(std::min(options.top_k, vocab)));
  std::vector<double> weight(order.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    weight[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / options.temperature);
    total += weight[i];
  }
  // Nucleus: the fewest most likely tokens whose mass reaches top_p.
  double kept = 0;
  std::size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * total)) kept += weight[count++];
  double rest = uniform * kept;
  for (std::size_t i = 0; i < count; ++i) {
    rest -= weight[i];
    if (rest < 0) return order[i];
  }
  return order[count - 1];
}

std::vector<std::int32_t> generate(Model& model, const DepthPlan& plan, std::int64_t vocab_size, const std::vector<std::int32_t>& prompt,
                                   const GenerateOptions& options, at::Device device, const std::function<bool(std::int32_t)>& on_token) {
  check(prompt, options, vocab_size);
  torch::NoGradGuard no_grad;
  DecodeCache cache;
  const auto key = stream_key(options.seed, "generate");
  std::vector<std::int32_t> feed = prompt, answer;
  while (static_cast<std::int64_t>(answer.size()) < options.max_tokens) {
    const at::Tensor tokens = torch::tensor(feed, torch::kInt).to(device);
    const at::Tensor logits = model.decode(tokens, plan, cache).to(torch::kFloat).cpu().contiguous();
    const std::int32_t next =
        sample_token(logits.data_ptr<float>(), logits.numel(), options, random_uniform(key, static_cast<std::uint64_t>(answer.size())));
    if (std::find(options.stop_tokens.begin(), options.stop_tokens.end(), next) != options.stop_tokens.end()) break;
    answer.push_back(next);
    if (on_token && !on_token(next)) break;
    feed = {next};
  }
  return answer;
}

}  // namespace meristem
