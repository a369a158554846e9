#include "config/effects.h"

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

[[noreturn]] void no_effect(const std::string& key, const std::string& beside) {
  throw InputError(fmt::format("{}: has no effect{}", key, beside));
}

void check_growth_effects(const GrowthConfig& growth) {
  const GrowthScheduleConfig& schedule = growth.schedule;
  const bool by_hand = schedule.kind == "at_steps";
  if (by_hand && schedule.alpha) no_effect("growth.schedule.alpha", " with growth.schedule.kind: at_steps; null takes it out");
  if (by_hand && schedule.until) no_effect("growth.schedule.until", " with growth.schedule.kind: at_steps; null takes it out");
  if (growth.op == "stack" && growth.add_blocks)
    no_effect("growth.add_blocks", " with growth.operator: stack, which doubles the model; null takes it out");
  if (growth.op == "map" && growth.add_blocks)
    no_effect("growth.add_blocks", " with growth.operator: map, whose maps say how many blocks are added; null takes it out");
}

}  // namespace

void refuse_without_effect(const RunConfig& config) {
  const CheckpointConfig& checkpoint = config.checkpoint;
  const LoggingConfig& logging = config.logging;
  const OptimizerConfig& optimizer = config.optimizer;
  if (config.growth) check_growth_effects(*config.growth);
  if (checkpoint.every == 0 && checkpoint.keep_every > 0) no_effect("checkpoint.keep_every", " with checkpoint.every: 0");
  if (logging.sample_tokens == 0 && logging.sample_every > 0) no_effect("logging.sample_every", " with logging.sample_tokens: 0");
  if (optimizer.decay_embeddings && optimizer.weight_decay == 0) no_effect("optimizer.decay_embeddings", " with optimizer.weight_decay: 0");
}

}  // namespace meristem
