#include "config/validate_depth.h"

#include <algorithm>

#include "config/refuse.h"
#include "config/scalars.h"
#include "config/timeline.h"
#include "config/validate_model.h"
#include "core/text.h"

namespace meristem {
namespace {

void resolve_growth(GrowthConfig& growth) {
  if (growth.schedule.kind == "prop" && !growth.schedule.alpha) growth.schedule.alpha = GrowthScheduleConfig::kAlpha;
  if (growth.schedule.kind == "prop" && !growth.schedule.until) growth.schedule.until = GrowthScheduleConfig::kUntil;
  if (growth.op != "stack" && growth.op != "map" && !growth.add_blocks) growth.add_blocks = GrowthConfig::kAddBlocks;
}

// The stages without what is not resolved yet.
std::vector<Stage> stages_without_phases(RunConfig config) {
  config.phases.clear();
  return Timeline(config).stages();
}

}  // namespace

void check_loop(const RunConfig& config) {
  const LoopConfig& loop = config.model.loop;
  const std::int64_t updates = updates_of(config.schedule.steps, config);
  std::int64_t before = -1;
  for (const auto& [from, count] : loop.repeats.schedule) {
    const std::string key = "model.loop.repeats." + (from.in_tokens ? number_text(from.value) + " tokens" : amount_text(from));
    const std::int64_t step = updates_of(from, config);
    if (before < 0 && step != 0) refuse("{}: found update {}; the first entry is for update 0", key, step);
    if (step <= before) refuse("{}: found update {}; allowed: after the entry before, {}", key, step, before);
    if (step >= updates) refuse("{}: found update {}; allowed: below schedule.steps = {}", key, step, updates);
    before = step;
  }
  if (loop.repeats.sampled && loop.repeats.sampled->mean > static_cast<double>(loop.repeats.sampled->max)) {
    refuse("model.loop.repeats.max: found {}; allowed: at least mean = {}", loop.repeats.sampled->max,
           number_text(loop.repeats.sampled->mean));
  }
}

void check_repeats(const RunConfig& config) {
  const LoopConfig& loop = config.model.loop;
  if (!loop.is_set()) return;
  std::int64_t most = 0;
  const Timeline timeline(config);
  for (const Span& span : timeline.spans()) most = std::max(most, timeline.longest_plan(span).loop()->repeats);
  if (loop.backprop_last && *loop.backprop_last >= most) {
    refuse("model.loop.backprop_last: found {}; has no effect where the loop runs at most {} times", *loop.backprop_last, most);
  }
}

void check_growth(RunConfig& config) {
  GrowthConfig& growth = *config.growth;
  resolve_growth(growth);
  const GrowthScheduleConfig& schedule = growth.schedule;
  if (schedule.kind == "prop" && !schedule.at_steps.empty()) refuse("growth.schedule.at_steps: contradicts growth.schedule.kind: prop");
  if (schedule.kind == "at_steps" && schedule.at_steps.empty()) refuse("growth.schedule.at_steps: is missing; kind: at_steps needs it");
  if (growth.op == "map" && growth.maps.empty()) refuse("growth.maps: is missing; operator: map needs it");
  if (growth.op != "map" && !growth.maps.empty()) refuse("growth.maps: contradicts growth.operator: {}", growth.op);
  if (growth.from_blocks >= config.model.blocks) {
    refuse("growth.from_blocks: found {}; allowed: below model.blocks = {}", growth.from_blocks, config.model.blocks);
  }
  if (growth.op != "map" && growth.op != "stack" && (config.model.blocks - growth.from_blocks) % *growth.add_blocks != 0) {
    refuse("growth.add_blocks: found {}; {} blocks cannot reach model.blocks = {} in steps of it", *growth.add_blocks, growth.from_blocks,
           config.model.blocks);
  }
  const bool plain = DepthPlan::parse(config.model.depth_plan).is_plain() && !config.model.loop.is_set();
  if (!plain && growth.plans.empty())
    refuse("growth.plans: is missing; model.depth_plan {} is not plain, so every stage needs its plan", config.model.depth_plan);
  if (growth.plans.empty()) return;
  // Without plans the stages can be counted; then each plan is held against its stage.
  RunConfig counted = config;
  counted.growth->plans.clear();
  counted.model.loop = {};
  const auto stages = stages_without_phases(counted);
  if (growth.plans.size() != stages.size()) refuse("growth.plans: has {} plans; there are {} stages", growth.plans.size(), stages.size());
  for (std::size_t i = 0; i < stages.size(); ++i) {
    growth.plans[i] = resolve_plan(growth.plans[i], fmt::format("growth.plans[{}]", i), config.model, stages[i].blocks);
  }
  if (growth.plans.back() != config.model.depth_plan) {
    refuse("growth.plans[{}]: found {}; the last stage's plan is model.depth_plan, {}", growth.plans.size() - 1, growth.plans.back(),
           config.model.depth_plan);
  }
}

void check_phase_plans(RunConfig& config) {
  const std::int64_t full_depth = stages_without_phases(config).back().from_step;
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    PhaseConfig& phase = config.phases[i];
    if (phase.depth_plan.empty()) continue;
    const std::string key = fmt::format("phases[{}].depth_plan", i);
    phase.depth_plan = resolve_plan(phase.depth_plan, key, config.model, config.model.blocks);
    const std::int64_t from = updates_of(phase.from_step, config);
    if (from < full_depth) {
      refuse("{}: the phase begins at {}, before full depth is reached at {}; use growth.plans", key, from, full_depth);
    }
  }
}

}  // namespace meristem
