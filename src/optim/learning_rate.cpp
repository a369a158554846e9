#include "optim/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace meristem {
namespace {

double decay_factor(const std::string& kind, double fraction) {
  if (kind == "linear") return 1 - fraction;
  if (kind == "cosine") return 0.5 * (1 + std::cos(std::numbers::pi * fraction));
  return 1 - std::sqrt(fraction);
}

double rewarm_factor(const RunConfig& config, std::int64_t n) {
  if (!config.growth || config.growth->rewarm_steps == 0) return 1;
  double factor = 1;
  for (const GrowthStage& stage : growth_stages(config)) {
    if (stage.from_step == 0 || n <= stage.from_step) continue;
    factor = std::min(1.0, static_cast<double>(n - stage.from_step) / static_cast<double>(config.growth->rewarm_steps));
  }
  return factor;
}

}  // namespace

double learning_rate(const RunConfig& config, std::int64_t n) {
  const std::int64_t steps = total_steps(config), warmup = warmup_steps(config);
  const bool decays = config.schedule.decay.kind != "none";
  const std::int64_t decay_from = decays ? decay_from_step(config) : steps;
  double factor = warmup > 0 ? std::min(1.0, static_cast<double>(n) / static_cast<double>(warmup)) : 1.0;
  if (n > decay_from) {
    factor = decay_factor(config.schedule.decay.kind, static_cast<double>(n - decay_from - 1) / static_cast<double>(steps - decay_from));
  }
  return config.optimizer.lr * factor * rewarm_factor(config, n);
}

std::vector<std::int64_t> learning_rate_segment_ends(const RunConfig& config) {
  std::vector<std::int64_t> ends{warmup_steps(config)};
  if (config.schedule.decay.kind != "none") ends.push_back(decay_from_step(config));
  ends.push_back(total_steps(config));
  std::erase(ends, 0);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

}  // namespace meristem
