// How often a loop runs in training where that is drawn: Poisson with a log-normal rate, as in Huginn (2502.05171).
#pragma once

#include <cstdint>

namespace meristem {

struct RepeatDistribution {
  double mean = 1;       // of the repeats before `max` bounds them; at least 1
  double sigma = 0.5;    // of the rate's logarithm
  std::int64_t max = 1;  // draws above it are `max`
};

// The repeats of update `step`: 1 + Poisson(rate), rate log-normal with mean `mean` - 1. A pure function of its arguments, so the same on
// every rank and after a resume. (Huginn adds the 1 on top of its mean; here `mean` is the mean.)
std::int64_t draw_repeats(const RepeatDistribution& distribution, std::uint64_t seed, std::int64_t step);

}  // namespace meristem
