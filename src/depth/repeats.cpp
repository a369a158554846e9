#include "depth/repeats.h"

#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "core/counter_rng.h"

namespace meristem {

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
