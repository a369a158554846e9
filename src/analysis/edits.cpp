#include "analysis/edits.h"

#include <algorithm>
#include <limits>
#include <set>

#include <torch/torch.h>

namespace meristem {
namespace {

constexpr std::size_t kTextTokensAtOnce = 8192;

DepthPlan plan_of(const Subject& subject, const std::vector<std::int64_t>& order) {
  std::vector<std::int64_t> calls;
  for (const std::int64_t r : order) calls.push_back(subject.block(r));
  return DepthPlan(std::move(calls));
}

std::vector<std::int32_t> first_ids(const std::vector<TokenIds>& texts, const std::vector<ItemTask>& tasks) {
  std::set<std::int32_t> ids;
  for (const TokenIds& text : texts) ids.insert(text.front());
  for (const ItemTask& task : tasks) {
    for (const ChoiceItem& item : task.items) ids.insert(item.context.front());
  }
  return {ids.begin(), ids.end()};
}

// [texts]: mean loss of each text's targets.
at::Tensor losses(const Subject& subject, const DepthPlan& plan, const std::vector<TokenIds>& texts) {
  std::vector<double> out;
  std::vector<TokenIds> some;
  std::size_t tokens = 0;
  const auto flush = [&] {
    if (some.empty()) return;
    const at::Tensor losses_N = subject.model.loss(batch_of(some, subject.device), plan).losses_N.to(torch::kDouble).cpu();
    std::int64_t begin = 0;
    for (const TokenIds& ids : some) {
      const auto length = static_cast<std::int64_t>(ids.size());
      out.push_back(losses_N.narrow(0, begin, length - 1).mean().item<double>());
      begin += length;
    }
    some.clear();
    tokens = 0;
  };
  for (const TokenIds& ids : texts) {
    if (tokens + ids.size() > kTextTokensAtOnce) flush();
    some.push_back(ids);
    tokens += ids.size();
  }
  flush();
  return torch::tensor(out, torch::kDouble);
}

at::Tensor right(const Subject& subject, const DepthPlan& plan, const ItemTask& task) {
  return right_choices(score_choices(subject.model, plan, subject.vocab_size, task.items, subject.device), task.gold);
}

std::int64_t items_of(const std::vector<ItemTask>& tasks) {
  std::size_t items = 0;
  for (const ItemTask& task : tasks) items += task.items.size();
  return static_cast<std::int64_t>(items);
}

}  // namespace

std::vector<std::int64_t> edited_order(Edit edit, std::int64_t calls, std::int64_t start, std::int64_t size) {
  const std::int64_t end = start + size * (edit == Edit::kSwap ? 2 : 1);
  if (start < 0 || size < (edit == Edit::kReverse ? 2 : 1) || end > calls || (edit == Edit::kSkip && size == calls)) return {};
  std::vector<std::int64_t> order;
  for (std::int64_t r = 0; r < calls; ++r) order.push_back(r);
  const auto first = order.begin() + start;
  switch (edit) {
    case Edit::kSkip: order.erase(first, first + size); break;
    case Edit::kSwap: std::rotate(first, first + size, first + 2 * size); break;
    case Edit::kReverse: std::reverse(first, first + size); break;
  }
  return order;
}

std::vector<std::int64_t> places_of(std::vector<std::int64_t> order) {
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<std::int64_t> edit_sizes(Edit edit, std::int64_t calls) {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t size : {1, 2, 4, 8}) {
    if (!edited_order(edit, calls, 0, size).empty()) sizes.push_back(size);
  }
  return sizes;
}

at::Tensor right_choices(const std::vector<std::vector<double>>& scores, const std::vector<std::size_t>& gold) {
  std::vector<double> out;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double best = *std::max_element(scores[i].begin(), scores[i].end());
    const auto equal = std::count(scores[i].begin(), scores[i].end(), best);
    out.push_back(scores[i].at(gold[i]) == best ? 1.0 / static_cast<double>(equal) : 0.0);
  }
  return torch::tensor(out, torch::kDouble);
}

FirstTokenKept::FirstTokenKept(const Subject& subject, const std::vector<std::int32_t>& first_ids) {
  std::vector<TokenIds> texts;
  for (const std::int32_t id : first_ids) {
    row_of_id_[id] = static_cast<std::int64_t>(texts.size());
    texts.push_back({id});
  }
  streams_ = record(subject, batch_of(texts, subject.device)).streams;
}

void FirstTokenKept::begins(const at::Tensor& tokens_N, const at::Tensor& positions_N) {
  rows_ = positions_N.eq(0).nonzero().squeeze(1);
  const at::Tensor ids = tokens_N.index_select(0, rows_).to(at::kInt).cpu();
  std::vector<std::int64_t> which;
  for (std::int64_t i = 0; i < ids.size(0); ++i) which.push_back(row_of_id_.at(ids.data_ptr<std::int32_t>()[i]));
  which_ = torch::tensor(which, torch::kLong).to(tokens_N.device());
}

at::Tensor FirstTokenKept::with_first(const at::Tensor& h_ND, std::int64_t stream) const {
  return h_ND.index_copy(0, rows_, streams_[static_cast<std::size_t>(stream)].index_select(0, which_));
}

at::Tensor FirstTokenKept::entering(const nn::CallContext& call, const at::Tensor& h_ND) {
  return with_first(h_ND, places_[static_cast<std::size_t>(call.depth_index)]);
}

at::Tensor FirstTokenKept::leaving(const nn::CallContext& call, const at::Tensor&, const at::Tensor& output_ND) {
  const bool last = call.depth_index + 1 == static_cast<std::int64_t>(places_.size());
  return last ? with_first(output_ND, static_cast<std::int64_t>(streams_.size()) - 1) : output_ND;
}

std::int64_t edit_passes(const Subject& subject, Edit edit, std::size_t texts, const std::vector<ItemTask>& tasks) {
  std::int64_t edits = 1;
  for (const std::int64_t size : edit_sizes(edit, subject.calls())) {
    for (std::int64_t start = 0; start < subject.calls(); ++start)
      edits += edited_order(edit, subject.calls(), start, size).empty() ? 0 : 1;
  }
  return edits * (static_cast<std::int64_t>(texts) + items_of(tasks));
}

Measured measure_edit(const Subject& subject, Edit edit, const std::vector<TokenIds>& texts, const std::vector<ItemTask>& tasks,
                      Work& work) {
  const torch::NoGradGuard no_grad;
  const std::vector<std::int64_t> sizes = edit_sizes(edit, subject.calls());
  const auto table = [&](std::size_t rows) {
    return at::full({static_cast<std::int64_t>(rows), static_cast<std::int64_t>(sizes.size()), subject.calls()},
                    std::numeric_limits<double>::quiet_NaN(), torch::kDouble);
  };
  const auto passes = static_cast<std::int64_t>(texts.size()) + items_of(tasks);
  Measured out{table(texts.size()), {}};
  const at::Tensor plain_losses = losses(subject, subject.plan, texts);
  std::vector<at::Tensor> plain_right;
  for (const ItemTask& task : tasks) {
    out.variants[task.name] = table(task.items.size());
    plain_right.push_back(right(subject, subject.plan, task));
  }
  work.did(passes);
  FirstTokenKept kept(subject, first_ids(texts, tasks));
  for (std::size_t s = 0; s < sizes.size(); ++s) {
    for (std::int64_t start = 0; start < subject.calls(); ++start) {
      const std::vector<std::int64_t> order = edited_order(edit, subject.calls(), start, sizes[s]);
      if (order.empty()) continue;
      const DepthPlan plan = plan_of(subject, order);
      kept.follow(places_of(order));
      const Observing observing(subject.model, &kept);
      const auto column = [&](const at::Tensor& of) { return of.select(2, start).select(1, static_cast<std::int64_t>(s)); };
      column(out.values).copy_(losses(subject, plan, texts) - plain_losses);
      for (std::size_t t = 0; t < tasks.size(); ++t)
        column(out.variants.at(tasks[t].name)).copy_(right(subject, plan, tasks[t]) - plain_right[t]);
      work.did(passes);
    }
  }
  return out;
}

std::int64_t early_exit_passes(const Subject& subject, const std::vector<ItemTask>& tasks) { return subject.calls() * items_of(tasks); }

at::Tensor measure_early_exit(const Subject& subject, const Lens& lens, const ItemTask& task, bool injects, Work& work) {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> by_call;
  for (std::int64_t r = 0; r < subject.calls(); ++r) {
    std::vector<std::int64_t> begin(subject.plan.calls().begin(), subject.plan.calls().begin() + r + 1);
    const DepthPlan plan = injects ? subject.plan : DepthPlan(std::move(begin));
    EarlyExit exit(r, plan.num_calls() - 1, lens);
    const Observing observing(subject.model, &exit);
    by_call.push_back(right(subject, plan, task));
    work.did(static_cast<std::int64_t>(task.items.size()));
  }
  return at::stack(by_call, 1);
}

}  // namespace meristem
