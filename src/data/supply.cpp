#include "data/supply.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/errors.h"
#include "data/mixture.h"
#include "data/token_source.h"

namespace meristem {
namespace {

[[noreturn]] void refuse(const std::string& name, const SourceConfig& source, std::int64_t step, std::int64_t sequences) {
  throw InputError(fmt::format("data.sources.{}.max_repeats: {} epochs of {} are used up at update {} (sequence {} of the source); allow more "
                               "repeats, lower its weight, or give more data",
                               name, source.max_repeats, source.path, step, sequences));
}

}  // namespace

std::vector<SourceUse> check_supply(const DataConfig& data, const std::vector<PhaseConfig>& phases, std::int64_t sequences_per_step, std::int64_t steps) {
  std::vector<SourceUse> use;
  std::vector<double> tokens_in_source, limit;
  for (const auto& [name, source] : data.sources) {
    use.push_back({name, 0, 0, 0});
    tokens_in_source.push_back(static_cast<double>(TokenSource::open(source.path).num_tokens()));
    limit.push_back(source.max_repeats > 0 ? source.max_repeats * tokens_in_source.back() / static_cast<double>(data.sequence_length) : 1e300);
  }
  for (std::size_t p = 0; p < phases.size(); ++p) {
    std::vector<double> weights(use.size(), 0);
    for (const auto& [name, weight] : phases[p].mixture) {
      const auto at = std::find_if(use.begin(), use.end(), [&, wanted = &name](const SourceUse& u) { return u.name == *wanted; });
      if (at != use.end()) weights[static_cast<std::size_t>(at - use.begin())] = weight;
    }
    const Mixture mixture(weights);
    const auto from = static_cast<std::int64_t>(phases[p].from_step.value);
    const std::int64_t until = p + 1 < phases.size() ? std::min(steps, static_cast<std::int64_t>(phases[p + 1].from_step.value)) : steps;
    std::vector<std::int64_t> drawn(use.size(), 0);
    for (std::int64_t n = 0; n < (until - from) * sequences_per_step; ++n) {
      const std::size_t chosen = mixture.next(drawn, n);
      ++drawn[chosen];
      if (static_cast<double>(++use[chosen].sequences) > limit[chosen]) {
        refuse(use[chosen].name, data.sources[chosen].second, from + n / sequences_per_step + 1, use[chosen].sequences);
      }
    }
  }
  for (std::size_t i = 0; i < use.size(); ++i) {
    use[i].tokens = use[i].sequences * data.sequence_length;
    use[i].epochs = static_cast<double>(use[i].tokens) / tokens_in_source[i];
  }
  return use;
}

}  // namespace meristem
