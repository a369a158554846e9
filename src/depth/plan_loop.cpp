// A plan's one loop: prelude, body, coda.
#include <fmt/format.h>

#include "core/errors.h"
#include "depth/plan.h"

namespace meristem {

DepthPlan DepthPlan::part(std::int64_t begin, std::int64_t end) const {
  return DepthPlan({calls_.begin() + static_cast<std::ptrdiff_t>(begin), calls_.begin() + static_cast<std::ptrdiff_t>(end)});
}

bool DepthPlan::has_one_loop() const {
  if (!loop_) return false;
  const auto repeats_nothing = [](const DepthPlan& part) { return part.print().find('(') == std::string::npos; };
  return repeats_nothing(part(0, loop_->start)) && repeats_nothing(part(loop_->start, loop_->start + loop_->length)) &&
         repeats_nothing(part(loop_->end(), num_calls()));
}

DepthPlan DepthPlan::with_repeats(std::int64_t repeats) const {
  if (!loop_) throw InputError(fmt::format("depth plan {}: has no loop to repeat", print()));
  const std::int64_t outside = num_calls() - loop_->length * loop_->repeats;
  if (repeats < 1 || repeats > (kMaxCalls - outside) / loop_->length) {
    throw InputError(fmt::format("depth plan {}: {} repeats; allowed: 1 to a plan of {} calls", print_loop(), repeats, kMaxCalls));
  }
  const DepthPlan prelude = part(0, loop_->start), body = part(loop_->start, loop_->start + loop_->length),
                  coda = part(loop_->end(), num_calls());
  std::vector<std::int64_t> calls = prelude.calls_;
  for (std::int64_t r = 0; r < repeats; ++r) calls.insert(calls.end(), body.calls_.begin(), body.calls_.end());
  calls.insert(calls.end(), coda.calls_.begin(), coda.calls_.end());
  return {std::move(calls), {loop_->start, loop_->length, repeats}};
}

std::optional<std::int64_t> DepthPlan::overlapping_block() const { return overlap_ || is_plain() ? overlap_ : parse(print()).overlap_; }

std::string DepthPlan::print_loop() const {
  if (!has_one_loop()) return print();
  std::string text = fmt::format("({})x{}", part(loop_->start, loop_->start + loop_->length).print(), loop_->repeats);
  if (loop_->start > 0) text = part(0, loop_->start).print() + ", " + text;
  if (loop_->end() < num_calls()) text += ", " + part(loop_->end(), num_calls()).print();
  return text;
}

}  // namespace meristem
