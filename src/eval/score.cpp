#include "eval/score.h"

#include <algorithm>
#include <numeric>

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

// What is read of an item's context before its choices begin, all but its last token: it is with that one that a choice's document begins,
// since each token's target is the next one.
std::size_t shared_tokens(const ChoiceItem& item) { return item.context.size() - 1; }

std::size_t count_common(const ChoiceItem& a, const ChoiceItem& b) {
  const std::size_t most = std::min(shared_tokens(a), shared_tokens(b));
  std::size_t count = 0;
  while (count < most && a.context[count] == b.context[count]) ++count;
  return count;
}

// An item, and where its scores go.
struct Asked {
  const ChoiceItem* item;
  std::vector<double>* scores;
  std::size_t common = 0;  // tokens with which its context begins as that of the one before it

  std::size_t choice_tokens() const {
    std::size_t tokens = 0;
    for (const auto& choice : item->choices) tokens += choice.size();
    return tokens;
  }
};

// A forward pass: items in the order of their contexts. Where several begin alike, that is a document which is read once, the rest of each
// goes on from there, and the choices of an item from its context.
class ScoringPass {
 public:
  // Tokens that the pass would have with one more item.
  std::size_t tokens_with(const Asked& next) const {
    const std::size_t read = items_.empty() ? 0 : next.common;
    return tokens_ + shared_tokens(*next.item) - read + next.choice_tokens();
  }
  void add(const Asked& next) {
    tokens_ = tokens_with(next);
    choices_ += next.item->choices.size();
    items_.push_back(next);
  }
  std::size_t choices() const { return choices_; }

  void score(Model& model, const DepthPlan& plan, at::Device device) {
    lay_out(0, items_.size(), 0, -1);
    const auto ints = [&](const std::vector<std::int32_t>& values) { return torch::tensor(values, torch::kInt).to(device); };
    const at::Tensor losses_N =
        model.loss({ints(inputs_), ints(targets_), ints(positions_), documents_}, plan).losses_N.to(torch::kDouble).cpu();
    const auto* next = losses_N.data_ptr<double>();
    for (std::size_t d = 0; d < goals_.size(); ++d) {
      const auto* const end = next + documents_.lengths[d];
      if (goals_[d] != nullptr) *goals_[d] = -std::accumulate(next, end, 0.0);
      next = end;
    }
  }

 private:
  static constexpr std::size_t kLeastShared = 8;  // tokens; a document of its own costs more than reading fewer of them again

  // Items [begin, end), whose contexts begin with the same `read` tokens, those of document `before` and what stands before it.
  void lay_out(std::size_t begin, std::size_t end, std::size_t read, std::int64_t before) {
    for (std::size_t first = begin; first < end;) {
      std::size_t last = first + 1, common = shared_tokens(*items_[first].item);
      while (last < end && items_[last].common >= read + kLeastShared) common = std::min(common, items_[last++].common);
      if (last - first == 1) {
        add_item(items_[first], read, before);
      } else {
        lay_out(first, last, common, add_beginning(*items_[first].item, read, common, before));
      }
      first = last;
    }
  }
  void add_item(const Asked& asked, std::size_t read, std::int64_t before) {
    const ChoiceItem& item = *asked.item;
    const std::size_t shared = shared_tokens(item);
    const std::int64_t context = add_beginning(item, read, shared, before);
    for (std::size_t c = 0; c < item.choices.size(); ++c) {
      const std::vector<std::int32_t>& choice = item.choices[c];
      for (std::size_t t = 0; t < choice.size(); ++t) add_token(t == 0 ? item.context.back() : choice[t - 1], choice[t], shared + t);
      end_document(choice.size(), context, &(*asked.scores)[c]);
    }
  }
  // Tokens [from, to) of a context as a document behind `before`, which is returned where there are none.
  std::int64_t add_beginning(const ChoiceItem& item, std::size_t from, std::size_t to, std::int64_t before) {
    if (from == to) return before;
    for (std::size_t t = from; t < to; ++t) add_token(item.context[t], -1, t);
    end_document(to - from, before, nullptr);
    return static_cast<std::int64_t>(documents_.lengths.size()) - 1;
  }
  void add_token(std::int32_t id, std::int32_t target, std::size_t position) {
    inputs_.push_back(id);
    targets_.push_back(target);
    positions_.push_back(static_cast<std::int32_t>(position));
  }
  void end_document(std::size_t tokens, std::int64_t before, double* goal) {
    documents_.lengths.push_back(static_cast<std::int64_t>(tokens));
    documents_.beginnings.push_back(before);
    goals_.push_back(goal);
  }

  std::vector<Asked> items_;
  std::size_t tokens_ = 0, choices_ = 0;
  std::vector<std::int32_t> inputs_, targets_, positions_;
  ops::Documents documents_;
  std::vector<double*> goals_;  // where a document's score goes; null: it is no choice
};

// By their contexts, so that those that begin alike stand together; the order in which they were given decides nothing.
std::vector<Asked> in_order(const std::vector<ChoiceItem>& items, std::vector<std::vector<double>>& scores) {
  std::vector<Asked> order;
  for (std::size_t i = 0; i < items.size(); ++i) {
    scores[i].resize(items[i].choices.size());
    order.push_back({&items[i], &scores[i]});
  }
  std::stable_sort(order.begin(), order.end(), [](const Asked& a, const Asked& b) { return a.item->context < b.item->context; });
  for (std::size_t i = 1; i < order.size(); ++i) order[i].common = count_common(*order[i - 1].item, *order[i].item);
  return order;
}

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
  if (batch_tokens == 0) batch_tokens = scoring_tokens(device);
  check_items(items, vocab_size);
  const torch::NoGradGuard no_grad;
  std::vector<std::vector<double>> scores(items.size());
  std::size_t passes = 0, done = 0, total = 0;
  for (const ChoiceItem& item : items) total += item.choices.size();
  ScoringPass pass;
  const auto finish = [&] {
    if (passes++ % share.step == share.first) pass.score(model, plan, device);
    done += pass.choices();
    if (scored) scored(done, total);
    pass = {};
  };
  for (const Asked& next : in_order(items, scores)) {
    if (pass.choices() > 0 && pass.tokens_with(next) > static_cast<std::size_t>(batch_tokens)) finish();
    pass.add(next);
  }
  if (pass.choices() > 0) finish();
  return scores;
}

}  // namespace meristem
