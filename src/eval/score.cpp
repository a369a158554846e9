#include "eval/score.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"

namespace meristem {
namespace {

void check_ids(const std::vector<std::int32_t>& ids, std::int64_t vocab_size, std::size_t item, const char* what) {
  if (ids.empty()) throw InputError(fmt::format("item {}: {} has no token", item, what));
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size)
      throw InputError(fmt::format("item {}: token id {} is outside the vocabulary of {}", item, id, vocab_size));
  }
}

void check_items(const std::vector<ChoiceItem>& items, std::int64_t vocab_size) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    check_ids(items[i].context, vocab_size, i, "the context");
    if (items[i].choices.empty()) throw InputError(fmt::format("item {}: has no choice", i));
    for (const auto& choice : items[i].choices) check_ids(choice, vocab_size, i, "a choice");
  }
}

// Items that wait for a forward pass, flattened. An item is a document of its context but for the last token, where there are more, and one
// a choice, which begins with that token, since it is there that choices differ: each token's target is the next one.
struct PendingItems {
  std::vector<std::int32_t> inputs, targets, positions;
  ops::Documents documents;
  std::vector<double*> scores;  // one a document; null: a context

  void add(const ChoiceItem& item, std::vector<double>& of_choices) {
    const std::size_t shared = item.context.size() - 1;
    const auto context = static_cast<std::int64_t>(documents.lengths.size());
    for (std::size_t t = 0; t < shared; ++t) add_token(item.context[t], -1, t);
    if (shared > 0) end_document(shared, -1, nullptr);
    for (std::size_t c = 0; c < item.choices.size(); ++c) {
      const std::vector<std::int32_t>& choice = item.choices[c];
      for (std::size_t t = 0; t < choice.size(); ++t) add_token(t == 0 ? item.context.back() : choice[t - 1], choice[t], shared + t);
      end_document(choice.size(), shared > 0 ? context : -1, &of_choices[c]);
    }
  }
  static std::size_t tokens_of(const ChoiceItem& item) {
    std::size_t tokens = item.context.size() - 1;
    for (const auto& choice : item.choices) tokens += choice.size();
    return tokens;
  }
  std::size_t choices() const {
    return static_cast<std::size_t>(std::count_if(scores.begin(), scores.end(), [](const double* score) { return score != nullptr; }));
  }

  void score(Model& model, const DepthPlan& plan, at::Device device) const {
    if (scores.empty()) return;  // an item longer than a batch stands at the start
    const auto ints = [&](const std::vector<std::int32_t>& values) { return torch::tensor(values, torch::kInt).to(device); };
    const at::Tensor losses = model.loss({ints(inputs), ints(targets), ints(positions), documents}, plan).losses_N.to(torch::kDouble).cpu();
    std::int64_t begin = 0;
    for (std::size_t s = 0; s < scores.size(); ++s) {
      if (scores[s] != nullptr) *scores[s] = -losses.narrow(0, begin, documents.lengths[s]).sum().item<double>();
      begin += documents.lengths[s];
    }
  }

 private:
  void add_token(std::int32_t id, std::int32_t target, std::size_t position) {
    inputs.push_back(id);
    targets.push_back(target);
    positions.push_back(static_cast<std::int32_t>(position));
  }
  void end_document(std::size_t tokens, std::int64_t beginning, double* score) {
    documents.lengths.push_back(static_cast<std::int64_t>(tokens));
    documents.beginnings.push_back(beginning);
    scores.push_back(score);
  }
};

}  // namespace

std::int64_t longest_positions(const std::vector<ChoiceItem>& items) {
  std::size_t longest = 0;
  for (const ChoiceItem& item : items) {
    for (const auto& choice : item.choices) longest = std::max(longest, item.context.size() + choice.size());
  }
  return static_cast<std::int64_t>(longest);
}

std::vector<std::vector<double>> score_choices(Model& model, const DepthPlan& plan, std::int64_t vocab_size,
                                               const std::vector<ChoiceItem>& items, at::Device device, Share share, const Scored& scored,
                                               std::int64_t batch_tokens) {
  check_items(items, vocab_size);
  torch::NoGradGuard no_grad;
  std::vector<std::vector<double>> scores(items.size());
  PendingItems pending;
  std::size_t batch = 0, done = 0, total = 0;
  for (const ChoiceItem& item : items) total += item.choices.size();
  const auto flush = [&] {
    if (batch++ % share.step == share.first) pending.score(model, plan, device);
    done += pending.choices();
    if (scored && !pending.scores.empty()) scored(done, total);
    pending = {};
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    scores[i].resize(items[i].choices.size());
    if (pending.inputs.size() + PendingItems::tokens_of(items[i]) > static_cast<std::size_t>(batch_tokens)) flush();
    pending.add(items[i], scores[i]);
  }
  flush();
  return scores;
}

}  // namespace meristem
