#include "eval/generate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include "core/counter_rng.h"
#include "core/errors.h"

namespace meristem {

void check_options(const GenerateOptions& options, std::int64_t vocab_size) {
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
  if (options.batch < 1 || options.batch > kMostAtOnce)
    throw InputError(fmt::format("batch: found {}; allowed: 1 to {}", options.batch, kMostAtOnce));
}

void check_prompt(const std::vector<std::int32_t>& prompt, const std::string& name, std::int64_t vocab_size) {
  if (prompt.empty()) throw InputError(fmt::format("{}: is empty; give at least one token", name));
  for (const std::int32_t id : prompt) {
    if (id < 0 || id >= vocab_size) throw InputError(fmt::format("{}: token id {} is outside the vocabulary of {}", name, id, vocab_size));
  }
}

namespace {

// Ids by their logits, the likeliest first, equal ones by number: as many as are asked for, since most draws are among the first.
class Likeliest {
 public:
  Likeliest(const float* logits, std::int64_t vocab) : logits_(logits), order_(static_cast<std::size_t>(vocab)) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  std::int32_t operator[](std::size_t place) {
    while (place >= sorted_) {
      const std::size_t end = std::min(order_.size(), std::max<std::size_t>(64, 8 * sorted_));
      const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(sorted_);
      std::partial_sort(begin, order_.begin() + static_cast<std::ptrdiff_t>(end), order_.end(),
                        [this](std::int32_t a, std::int32_t b) { return logits_[a] > logits_[b] || (logits_[a] == logits_[b] && a < b); });
      sorted_ = end;
    }
    return order_[place];
  }

 private:
  const float* logits_;
  std::vector<std::int32_t> order_;
  std::size_t sorted_ = 0;
};

}  // namespace

std::int32_t sample_token(const float* logits, std::int64_t vocab, const GenerateOptions& options, double uniform) {
  const float* const first = std::max_element(logits, logits + vocab);
  if (options.temperature == 0) return static_cast<std::int32_t>(first - logits);
  const auto weight = [&](float logit) {
    constexpr double kNothing = -60;  // of the whole less than a double can tell
    const double x = (static_cast<double>(logit) - *first) / options.temperature;
    return x < kNothing ? 0 : std::exp(x);
  };
  Likeliest ids(logits, vocab);
  const auto candidates = static_cast<std::size_t>(options.top_k > 0 ? std::min(options.top_k, vocab) : vocab);
  double total = 0;
  if (options.top_k > 0) {
    for (std::size_t i = 0; i < candidates; ++i) total += weight(logits[ids[i]]);
  } else {
    for (std::int64_t id = 0; id < vocab; ++id) total += weight(logits[id]);
  }
  // Nucleus: the fewest most likely tokens whose mass reaches top_p.
  double kept = total;
  std::size_t count = candidates;
  if (options.top_p < 1) {
    for (kept = 0, count = 0; count < candidates && (count == 0 || kept < options.top_p * total);) kept += weight(logits[ids[count++]]);
  }
  double rest = uniform * kept;
  for (std::size_t i = 0; i < count; ++i) {
    const double own = weight(logits[ids[i]]);
    rest -= own;
    if (rest < 0 || own == 0) return ids[own == 0 && i > 0 ? i - 1 : i];
  }
  return ids[count - 1];
}

namespace {

// An answer under way.
struct Text {
  std::size_t number;
  std::uint64_t key;
  DecodeCache cache;
  std::vector<std::int32_t> answer = {};
  bool ended = false;
};

class Writer {
 public:
  Writer(Model& model, const DepthPlan& plan, const GenerateOptions& options, at::Device device, const OnToken& on_token)
      : model_(model), plan_(plan), options_(options), device_(device), on_token_(on_token) {}

  // Feeds the next tokens of some texts, all in a row, and adds one to each answer.
  void advance(const std::vector<std::int32_t>& tokens, const std::vector<std::int64_t>& lengths, const std::vector<Text*>& texts) {
    std::vector<DecodeCache*> caches;
    for (Text* text : texts) caches.push_back(&text->cache);
    const at::Tensor logits =
        model_.decode(torch::tensor(tokens, torch::kInt).to(device_), lengths, plan_, caches).to(torch::kFloat).cpu().contiguous();
    std::vector<std::int32_t> next(texts.size());
    at::parallel_for(0, std::ssize(texts), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Text& text = *texts[static_cast<std::size_t>(i)];
        next[static_cast<std::size_t>(i)] = sample_token(logits.data_ptr<float>() + i * logits.size(1), logits.size(1), options_,
                                                         random_uniform(text.key, static_cast<std::uint64_t>(text.answer.size())));
      }
    });
    for (std::size_t i = 0; i < texts.size(); ++i) take(*texts[i], next[i]);
  }

 private:
  void take(Text& text, std::int32_t id) const {
    const auto& stops = options_.stop_tokens;
    text.ended = std::find(stops.begin(), stops.end(), id) != stops.end();
    if (text.ended) return;
    text.answer.push_back(id);
    text.ended = (on_token_ && !on_token_(text.number, id)) || std::ssize(text.answer) == options_.max_tokens;
  }

  Model& model_;
  const DepthPlan& plan_;
  const GenerateOptions& options_;
  at::Device device_;
  const OnToken& on_token_;
};

}  // namespace

std::vector<std::vector<std::int32_t>> generate(Model& model, const DepthPlan& plan, std::int64_t vocab_size,
                                                const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options,
                                                at::Device device, const OnToken& on_token, const OnAnswer& on_answer) {
  check_options(options, vocab_size);
  for (std::size_t i = 0; i < prompts.size(); ++i)
    check_prompt(prompts[i], prompts.size() == 1 ? "prompt" : fmt::format("prompt {}", i), vocab_size);
  const torch::NoGradGuard no_grad;
  constexpr std::int64_t kRoom = 2048;  // tokens of an answer that memory is taken for at once; it grows with longer ones
  std::vector<std::vector<std::int32_t>> answers(prompts.size());
  std::vector<std::unique_ptr<Text>> under_way;
  Writer writer(model, plan, options, device, on_token);
  const auto collect = [&] {
    for (const auto& text : under_way) {
      if (!text->ended) continue;
      answers[text->number] = std::move(text->answer);
      if (on_answer) on_answer(text->number, answers[text->number]);
    }
    std::erase_if(under_way, [](const auto& text) { return text->ended; });
  };
  for (std::size_t i = 0; options.max_tokens == 0 && on_answer && i < prompts.size(); ++i) on_answer(i, {});
  for (std::size_t next = 0; options.max_tokens > 0 && (next < prompts.size() || !under_way.empty());) {
    // A prompt is read alone: so its result does not depend on others.
    while (next < prompts.size() && std::ssize(under_way) < options.batch) {
      under_way.push_back(std::make_unique<Text>(Text{next, stream_key(options.seed + next, "generate"), {}}));
      under_way.back()->cache.expected = std::ssize(prompts[next]) + std::min(kRoom, options.max_tokens);
      writer.advance(prompts[next], {std::ssize(prompts[next])}, {under_way.back().get()});
      ++next;
      collect();
    }
    std::vector<std::int32_t> tokens;
    std::vector<Text*> texts;
    for (const auto& text : under_way) {
      tokens.push_back(text->answer.back());
      texts.push_back(text.get());
    }
    if (texts.empty()) continue;
    writer.advance(tokens, std::vector<std::int64_t>(texts.size(), 1), texts);
    collect();
  }
  return answers;
}

}  // namespace meristem
