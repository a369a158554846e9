// Edits of the plan: a window of calls is left out, changes places with the next one, or runs backwards; or the model stops early. What
// that costs is measured as loss on texts and as right choices on items. The first token of a text keeps to the plan as it is: at every
// place of the plan that is left, other tokens see it as it stands there without the edit, whatever block has come to that place.
#pragma once

#include "analysis/lens.h"
#include "analysis/recording.h"
#include "eval/score.h"

namespace meristem {

enum class Edit { kSkip, kSwap, kReverse };

// The calls of [0, calls) in their new order: [start, start + size) left out, swapped with the `size` calls behind them, or reversed. Empty
// where the edit is not possible or leaves nothing.
std::vector<std::int64_t> edited_order(Edit edit, std::int64_t calls, std::int64_t start, std::int64_t size);
// The places at which the calls of such an order stand: those that are left of [0, calls), ascending.
std::vector<std::int64_t> places_of(std::vector<std::int64_t> order);
// Those of 1, 2, 4, 8 for which there is an edit (2, 4, 8 of reversals).
std::vector<std::int64_t> edit_sizes(Edit edit, std::int64_t calls);

// A named set of items with the right choice of each.
struct ItemTask {
  std::string name;
  std::vector<ChoiceItem> items;
  std::vector<std::size_t> gold;
};
// [items]: 1 where the right choice is the most likely one, 1/k where it is one of k that are equally likely.
at::Tensor right_choices(const std::vector<std::vector<double>>& scores, const std::vector<std::size_t>& gold);

// The first token of every text keeps to the subject's plan while the model runs an edited one.
class FirstTokenKept : public nn::CallObserver {
 public:
  // first_ids: every id that a text may begin with.
  FirstTokenKept(const Subject& subject, const std::vector<std::int32_t>& first_ids);
  // places: of the subject's plan, one for each call of the edited one.
  void follow(std::vector<std::int64_t> places) { places_ = std::move(places); }
  void begins(const at::Tensor& tokens_N, const at::Tensor& positions_N) override;
  at::Tensor entering(const nn::CallContext& call, const at::Tensor& h_ND) override;
  at::Tensor leaving(const nn::CallContext& call, const at::Tensor& input_ND, const at::Tensor& output_ND) override;

 private:
  at::Tensor with_first(const at::Tensor& h_ND, std::int64_t stream) const;

  std::map<std::int32_t, std::int64_t> row_of_id_;
  std::vector<at::Tensor> streams_;  // 1 + calls of [ids, D]
  std::vector<std::int64_t> places_;
  at::Tensor rows_, which_;  // first tokens of the running pass: their rows, and their places in streams_
};

// Changes of the loss (nats per token, mean over each text): [texts, sizes, starts]; NaN where there is no such edit. Variants by task:
// changes of right choices, [items, sizes, starts].
Measured measure_edit(const Subject& subject, Edit edit, const std::vector<TokenIds>& texts, const std::vector<ItemTask>& tasks,
                      Work& work);
std::int64_t edit_passes(const Subject& subject, Edit edit, std::size_t texts, const std::vector<ItemTask>& tasks);

// Right choices of a task where the model stops behind each call: [items, calls]. `injects`: the plan's loop injects, so the plan is run
// whole.
at::Tensor measure_early_exit(const Subject& subject, const Lens& lens, const ItemTask& task, bool injects, Work& work);
std::int64_t early_exit_passes(const Subject& subject, const std::vector<ItemTask>& tasks);

}  // namespace meristem
