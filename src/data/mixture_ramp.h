// The weights of a phase that ramps in: over its first updates the shares move in a straight line from those of the phase before to its
// own.
#pragma once

#include <cstdint>
#include <vector>

namespace meristem {

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
