#include "config/run_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "core/errors.h"
#include "depth/growth.h"

namespace meristem {
namespace {

SourceMap growth_map_of(const GrowthConfig& growth, std::size_t event, std::int64_t blocks) {
  if (growth.op == "map") {
    if (event >= growth.maps.size())
      throw InputError(fmt::format("growth.maps: has {} maps; growth {} needs one more", growth.maps.size(), event + 1));
    check_source_map(growth.maps[event], blocks);
    return growth.maps[event];
  }
  return grow_map(parse_growth_operator(growth.op), blocks,
                  growth.op == "stack" ? blocks : growth.add_blocks.value_or(GrowthConfig::kAddBlocks));
}

// The maps that lead from growth.from_blocks to model.blocks.
std::vector<SourceMap> growth_maps(const RunConfig& config) {
  std::vector<SourceMap> maps;
  for (std::int64_t blocks = config.growth->from_blocks; blocks != config.model.blocks;) {
    if (blocks > config.model.blocks) {
      throw InputError(fmt::format("growth: reaches {} blocks from {}, never model.blocks = {}", blocks, config.growth->from_blocks,
                                   config.model.blocks));
    }
    maps.push_back(growth_map_of(*config.growth, maps.size(), blocks));
    const auto next = static_cast<std::int64_t>(maps.back().size());
    if (next <= blocks)
      throw InputError(fmt::format("growth.maps[{}]: has {} blocks; growing from {} needs more", maps.size() - 1, next, blocks));
    blocks = next;
  }
  if (config.growth->op == "map" && config.growth->maps.size() > maps.size()) {
    throw InputError(fmt::format("growth.maps: has {} maps; {} lead to model.blocks = {}", config.growth->maps.size(), maps.size(),
                                 config.model.blocks));
  }
  return maps;
}

// Last update of every stage but the final one.
std::vector<std::int64_t> growth_steps(const RunConfig& config, std::size_t growths) {
  const GrowthScheduleConfig& schedule = config.growth->schedule;
  std::vector<std::int64_t> steps;
  if (schedule.kind == "at_steps") {
    for (const Amount& amount : schedule.at_steps) steps.push_back(steps_of(amount, config));
    if (steps.size() != growths) {
      throw InputError(fmt::format("growth.schedule.at_steps: has {} entries; from {} to {} blocks takes {} growths", steps.size(),
                                   config.growth->from_blocks, config.model.blocks, growths));
    }
  } else {
    const auto share = static_cast<std::int64_t>(
        std::llround(schedule.until.value_or(GrowthScheduleConfig::kUntil) * static_cast<double>(total_steps(config))));
    std::int64_t at = 0;
    for (const std::int64_t length :
         prop_stage_lengths(share, static_cast<std::int64_t>(growths) + 1, schedule.alpha.value_or(GrowthScheduleConfig::kAlpha)))
      steps.push_back(at += length);
    steps.pop_back();
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::int64_t before = i == 0 ? 0 : steps[i - 1];
    if (steps[i] <= before || steps[i] >= total_steps(config)) {
      const std::string key = schedule.kind == "at_steps" ? fmt::format("growth.schedule.at_steps[{}]", i) : "growth.schedule";
      throw InputError(fmt::format("{}: growth {} falls on step {}; allowed: after step {} and before the last, {}", key, i + 1, steps[i],
                                   before, total_steps(config)));
    }
  }
  return steps;
}

DepthPlan repeat_loop(const DepthPlan& plan, std::int64_t repeats) {
  try {
    return plan.with_repeats(repeats);
  } catch (const InputError& error) {
    throw InputError(fmt::format("model.loop.repeats: {}", error.what()));
  }
}

// `plan` with the repeats that are in force for updates after `step`. Sampled ones: the count that is written.
DepthPlan repeated(const RunConfig& config, const DepthPlan& plan, std::int64_t step) {
  const RepeatsConfig& repeats = config.model.loop.repeats;
  if (repeats.number) return repeat_loop(plan, *repeats.number);
  std::int64_t now = 0;
  for (const auto& [from, count] : repeats.schedule) {
    if (steps_of(from, config) <= step) now = count;
  }
  return now > 0 ? repeat_loop(plan, now) : plan;
}

// Where the model, its plan or the mixture may change.
std::set<std::int64_t> segment_starts(const RunConfig& config, const std::vector<GrowthStage>& stages) {
  std::set<std::int64_t> starts{0};
  for (const GrowthStage& stage : stages) starts.insert(stage.from_step);
  for (const PhaseConfig& phase : config.phases) starts.insert(steps_of(phase.from_step, config));
  for (const auto& [from, count] : config.model.loop.repeats.schedule) starts.insert(steps_of(from, config));
  starts.erase(starts.lower_bound(total_steps(config)), starts.end());
  return starts;
}

}  // namespace

std::int64_t steps_of(const Amount& amount, const RunConfig& config) {
  return static_cast<std::int64_t>(std::llround(amount.in_tokens ? amount.value / static_cast<double>(config.batch.tokens) : amount.value));
}

std::int64_t total_steps(const RunConfig& config) { return steps_of(config.schedule.steps, config); }

std::int64_t warmup_steps(const RunConfig& config) {
  if (config.schedule.warmup) return steps_of(*config.schedule.warmup, config);
  return std::llround(0.01 * static_cast<double>(total_steps(config)));
}

std::int64_t decay_from_step(const RunConfig& config) {
  if (config.schedule.decay.from_step) return steps_of(*config.schedule.decay.from_step, config);
  return std::llround(0.85 * static_cast<double>(total_steps(config)));
}

std::vector<GrowthStage> growth_stages(const RunConfig& config) {
  const DepthPlan full = DepthPlan::parse(config.model.depth_plan);
  if (!config.growth) return {{0, total_steps(config), config.model.blocks, repeated(config, full, total_steps(config) - 1), {}}};
  const auto maps = growth_maps(config);
  const auto steps = growth_steps(config, maps.size());
  std::vector<GrowthStage> stages;
  for (std::size_t i = 0; i <= maps.size(); ++i) {
    GrowthStage stage;
    stage.from_step = i == 0 ? 0 : steps[i - 1];
    stage.until_step = i < steps.size() ? steps[i] : total_steps(config);
    stage.blocks = i == 0 ? config.growth->from_blocks : static_cast<std::int64_t>(maps[i - 1].size());
    stage.plan = config.growth->plans.empty() ? DepthPlan::plain(stage.blocks) : DepthPlan::parse(config.growth->plans.at(i));
    stage.plan = repeated(config, stage.plan, stage.until_step - 1);
    if (i > 0) stage.source_of = maps[i - 1];
    stages.push_back(std::move(stage));
  }
  return stages;
}

std::vector<Segment> segments(const RunConfig& config) {
  const auto stages = growth_stages(config);
  std::set<std::int64_t> cuts = segment_starts(config, stages);
  cuts.insert(total_steps(config));
  std::vector<Segment> out;
  for (auto cut = cuts.begin(); std::next(cut) != cuts.end(); ++cut) {
    Segment segment{*cut, *std::next(cut), 0, 0, {}};
    for (std::size_t i = 0; i < stages.size(); ++i) {
      if (stages[i].from_step <= segment.from_step) segment.stage = i;
    }
    for (std::size_t i = 0; i < config.phases.size(); ++i) {
      if (steps_of(config.phases[i].from_step, config) <= segment.from_step) segment.phase = i;
    }
    const std::string& own = config.phases.empty() ? std::string() : config.phases[segment.phase].depth_plan;
    segment.plan = repeated(config, own.empty() ? stages[segment.stage].plan : DepthPlan::parse(own), segment.from_step);
    out.push_back(std::move(segment));
  }
  return out;
}

std::string plan_text(const RunConfig& config, const DepthPlan& plan) {
  return config.model.loop.is_set() ? plan.print_loop() : plan.print();
}

DepthPlan plan_of_step(const RunConfig& config, const Segment& segment, std::int64_t n) {
  const auto& sampled = config.model.loop.repeats.sampled;
  return sampled ? segment.plan.with_repeats(draw_repeats(*sampled, static_cast<std::uint64_t>(config.run.seed), n)) : segment.plan;
}

DepthPlan longest_plan(const RunConfig& config, const Segment& segment) {
  const auto& sampled = config.model.loop.repeats.sampled;
  return sampled ? repeat_loop(segment.plan, sampled->max) : segment.plan;
}

}  // namespace meristem
