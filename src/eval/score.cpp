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

// Choices that wait for a forward pass, flattened: a token's target is the next one where that belongs to the choice.
struct PendingChoices {
  std::vector<std::int32_t> inputs, targets, positions;
  ops::Documents documents;
  std::vector<double*> scores;  // one a document

  void add(const ChoiceItem& item, const std::vector<std::int32_t>& choice, double* score) {
    std::vector<std::int32_t> tokens = item.context;
    tokens.insert(tokens.end(), choice.begin(), choice.end());
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
      inputs.push_back(tokens[t]);
      targets.push_back(t + 1 < item.context.size() ? -1 : tokens[t + 1]);
      positions.push_back(static_cast<std::int32_t>(t));
    }
    documents.lengths.push_back(static_cast<std::int64_t>(tokens.size()) - 1);
    scores.push_back(score);
  }

  void score(Model& model, const DepthPlan& plan, at::Device device) const {
    if (scores.empty()) return;  // an item longer than a batch stands at the start
    const auto ints = [&](const std::vector<std::int32_t>& values) { return torch::tensor(values, torch::kInt).to(device); };
    const at::Tensor losses = model.loss({ints(inputs), ints(targets), ints(positions), documents}, plan).losses_N.to(torch::kDouble).cpu();
    std::int64_t begin = 0;
    for (std::size_t s = 0; s < scores.size(); ++s) {
      *scores[s] = -losses.narrow(0, begin, documents.lengths[s]).sum().item<double>();
      begin += documents.lengths[s];
    }
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
  PendingChoices pending;
  std::size_t batch = 0, done = 0, total = 0;
  for (const ChoiceItem& item : items) total += item.choices.size();
  const auto flush = [&] {
    if (batch++ % share.step == share.first) pending.score(model, plan, device);
    done += pending.scores.size();
    if (scored && !pending.scores.empty()) scored(done, total);
    pending = {};
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    scores[i].resize(items[i].choices.size());
    for (std::size_t c = 0; c < items[i].choices.size(); ++c) {
      const std::size_t tokens = items[i].context.size() + items[i].choices[c].size();
      if (pending.inputs.size() + tokens > static_cast<std::size_t>(batch_tokens)) flush();
      pending.add(items[i], items[i].choices[c], &scores[i][c]);
    }
  }
  flush();
  return scores;
}

}  // namespace meristem
