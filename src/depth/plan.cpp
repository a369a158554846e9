#include "depth/plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "core/counter_rng.h"
#include "core/errors.h"

namespace meristem {
namespace {

std::optional<std::int64_t> first_uncalled(const std::vector<std::int64_t>& calls, std::int64_t blocks) {
  std::vector<bool> called(static_cast<std::size_t>(std::max<std::int64_t>(blocks, 0)), false);
  for (const std::int64_t block : calls) {
    if (block >= 0 && block < blocks) called[static_cast<std::size_t>(block)] = true;
  }
  const auto missing = std::find(called.begin(), called.end(), false);
  if (missing == called.end()) return std::nullopt;
  return missing - called.begin();
}

}  // namespace

DepthPlan DepthPlan::plain(std::int64_t blocks) {
  std::vector<std::int64_t> calls(static_cast<std::size_t>(std::max<std::int64_t>(blocks, 0)));
  std::iota(calls.begin(), calls.end(), std::int64_t{0});
  return DepthPlan(std::move(calls));
}

std::int64_t DepthPlan::max_block() const { return calls_.empty() ? -1 : *std::max_element(calls_.begin(), calls_.end()); }

bool DepthPlan::is_plain() const { return *this == plain(num_calls()); }

bool DepthPlan::calls_every_block(std::int64_t blocks) const { return !first_uncalled(calls_, blocks); }

void DepthPlan::check(std::int64_t blocks, bool every_block) const {
  if (calls_.empty()) throw InputError("depth plan: calls no block");
  const auto outside = std::find_if(calls_.begin(), calls_.end(), [&](std::int64_t block) { return block < 0 || block >= blocks; });
  if (outside != calls_.end()) {
    throw InputError(fmt::format("depth plan: calls block {}; the model has blocks 0 to {}", *outside, blocks - 1));
  }
  if (!every_block) return;
  if (const auto block = first_uncalled(calls_, blocks)) {
    throw InputError(fmt::format("depth plan: never calls block {}; training needs every block called", *block));
  }
}

DepthPlan DepthPlan::repeat(std::int64_t start, std::int64_t length, std::int64_t extra) const {
  if (start < 0 || length < 1 || start > num_calls() || length > num_calls() - start) {
    throw InputError(fmt::format("depth plan: cannot repeat {} calls from call {} on; the plan has {} calls", length, start, num_calls()));
  }
  if (extra < 0 || extra > std::max<std::int64_t>(kMaxCalls - num_calls(), 0) / length) {
    throw InputError(fmt::format("depth plan: {} more repeats of {} calls; allowed: 0 to a plan of {} calls", extra, length, kMaxCalls));
  }
  std::vector<std::int64_t> calls(calls_.begin(), calls_.begin() + start + length);
  for (std::int64_t r = 0; r < extra; ++r) calls.insert(calls.end(), calls_.begin() + start, calls_.begin() + start + length);
  calls.insert(calls.end(), calls_.begin() + start + length, calls_.end());
  if (!loop_ || length != loop_->length || !loop_->begins_repeat(start)) return DepthPlan(std::move(calls));
  return {std::move(calls), {loop_->start, length, loop_->repeats + extra}};
}

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

// The stretch that repeats itself over the most calls, the shortest body of those, the first of those.
std::optional<LoopSpan> DepthPlan::longest_loop() const {
  std::optional<LoopSpan> best;
  const auto call = [this](std::int64_t i) { return calls_[static_cast<std::size_t>(i)]; };
  for (std::int64_t length = 1; 2 * length <= num_calls(); ++length) {
    for (std::int64_t start = 0; start + 2 * length <= num_calls(); ++start) {
      std::int64_t end = start + length;
      while (end < num_calls() && call(end) == call(end - length)) ++end;
      const LoopSpan loop{start, length, (end - start) / length};
      if (loop.repeats > 1 && (!best || loop.end() - loop.start > best->end() - best->start)) best = loop;
    }
  }
  return best;
}

std::string DepthPlan::print_grouped() const {
  constexpr std::int64_t kMost = 200;  // what follows is cubic
  const auto loop = num_calls() <= kMost ? longest_loop() : std::nullopt;
  return loop ? DepthPlan(calls_, *loop).print_loop() : print();
}

std::string DepthPlan::print_loop() const {
  if (!has_one_loop()) return print();
  std::string text = fmt::format("({})x{}", part(loop_->start, loop_->start + loop_->length).print(), loop_->repeats);
  if (loop_->start > 0) text = part(0, loop_->start).print() + ", " + text;
  if (loop_->end() < num_calls()) text += ", " + part(loop_->end(), num_calls()).print();
  return text;
}

std::int64_t draw_repeats(const RepeatDistribution& distribution, std::uint64_t seed, std::int64_t step) {
  const std::uint64_t key = stream_key(seed, fmt::format("loop/repeats/{}", step));
  std::uint64_t index = 0;
  // In (0, 1], so that logarithms are finite.
  const auto uniform = [&] { return 1 - random_uniform(key, index++); };
  const double radius = std::sqrt(-2 * std::log(uniform())), normal = radius * std::cos(2 * std::numbers::pi * uniform());
  const double rate = (distribution.mean - 1) * std::exp(distribution.sigma * normal - distribution.sigma * distribution.sigma / 2);
  // Arrivals of a Poisson process in [0, rate): exact for every rate, and at most `max` draws.
  std::int64_t repeats = 1;
  for (double time = -std::log(uniform()); time < rate && repeats < distribution.max; time -= std::log(uniform())) ++repeats;
  return repeats;
}

}  // namespace meristem
