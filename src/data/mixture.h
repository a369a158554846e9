// Which source comes next: the one furthest below its weight. Whole numbers throughout, so that ties are ties on every machine. And
// how the weights move where a phase ramps in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace meristem {

class Mixture {
 public:
  // One weight a source, in file order, not negative, at least one positive; they need not sum to 1. Rounded to 1e-9.
  // InputError where a positive weight is too small or too large to be held.
  explicit Mixture(const std::vector<double>& weights);

  // Draws one: the source i with the largest weight_i * (n + 1) - drawn_i, the first of equals, never one of weight 0.
  std::size_t draw();
  // As `count` calls of draw(), at once: whole periods of the pattern are counted, not drawn.
  void skip(std::int64_t count);

  const std::vector<std::int64_t>& weights() const { return weights_; }  // in units of 1e-9, or as set_weights gave them
  const std::vector<std::int64_t>& drawn() const { return drawn_; }
  // How far each source is behind its share of all draws so far, in draws, times the sum of the weights. The lags sum to 0. After any
  // draw each lies above -1 draw, and at 1/2 + 1/3 + ... + 1/k draws or below, with k sources of positive weight; so too where weights
  // changed on the way.
  const std::vector<std::int64_t>& lag() const { return lag_; }

  // The next draws go by these weights; what sources lag behind stays. The sum must not change once anything is drawn.
  void set_weights(std::vector<std::int64_t> weights);

  // Goes on after these draws. False, with nothing changed, where draw() cannot have led to them.
  bool restore(const std::vector<std::int64_t>& drawn);
  // The same where weights changed on the way, so that the lags do not follow from the draws.
  bool restore(const std::vector<std::int64_t>& drawn, const std::vector<std::int64_t>& lag);

 private:
  std::vector<std::int64_t> weights_, drawn_;
  std::vector<std::int64_t> lag_;
  std::int64_t total_ = 0, period_ = 0;

  void find_period();
};

// The weights of a phase that ramps in: over its first updates the shares move in a straight line from those of the phase before to its
// own.
class MixtureRamp {
 public:
  // Weights of the phase before and of this one, by source, in any unit, each with a positive sum; `steps` >= 1 updates lie between them.
  MixtureRamp(const std::vector<std::int64_t>& from, const std::vector<std::int64_t>& to, std::int64_t steps);

  // Of the phase's update r, from 1: from + (to - from) * r / (steps + 1), whole numbers that sum to kTotal. From r = steps + 1 on the
  // phase's own. A source that has no weight at either end has none between.
  std::vector<std::int64_t> weights(std::int64_t update) const;
  std::int64_t steps() const { return steps_; }

  static constexpr std::int64_t kTotal = 1'000'000'000'000;

 private:
  std::vector<std::int64_t> from_, to_;  // sum to kTotal
  std::int64_t steps_;
};

}  // namespace meristem
