#include "config/timeline.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include <fmt/format.h>

#include "core/errors.h"
#include "depth/growth.h"

namespace meristem {
namespace {

SourceMap growth_map_of(const GrowthConfig& growth, std::size_t event, std::int64_t blocks) {
  if (growth.op == GrowthOperator::kMap) {
    if (event >= growth.maps.size())
      throw InputError(fmt::format("growth.maps: has {} maps; growth {} needs one more", growth.maps.size(), event + 1));
    check_source_map(growth.maps[event], blocks);
    return growth.maps[event];
  }
  return grow_map(growth.op, blocks, growth.op == GrowthOperator::kStack ? blocks : growth.add_blocks.value_or(GrowthConfig::kAddBlocks));
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
  if (config.growth->op == GrowthOperator::kMap && config.growth->maps.size() > maps.size()) {
    throw InputError(fmt::format("growth.maps: has {} maps; {} lead to model.blocks = {}", config.growth->maps.size(), maps.size(),
                                 config.model.blocks));
  }
  return maps;
}

// Last update of every stage but the final one.
std::vector<std::int64_t> growth_steps(const RunConfig& config, std::int64_t updates, std::size_t growths) {
  const GrowthScheduleConfig& schedule = config.growth->schedule;
  std::vector<std::int64_t> steps;
  if (schedule.kind == GrowthScheduleKind::kAtSteps) {
    for (const Amount& amount : schedule.at_steps) steps.push_back(updates_of(amount, config));
    if (steps.size() != growths) {
      throw InputError(fmt::format("growth.schedule.at_steps: has {} entries; from {} to {} blocks takes {} growths", steps.size(),
                                   config.growth->from_blocks, config.model.blocks, growths));
    }
  } else {
    const auto share =
        static_cast<std::int64_t>(std::llround(schedule.until.value_or(GrowthScheduleConfig::kUntil) * static_cast<double>(updates)));
    std::int64_t at = 0;
    for (const std::int64_t length :
         prop_stage_lengths(share, static_cast<std::int64_t>(growths) + 1, schedule.alpha.value_or(GrowthScheduleConfig::kAlpha)))
      steps.push_back(at += length);
    steps.pop_back();
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::int64_t before = i == 0 ? 0 : steps[i - 1];
    if (steps[i] <= before || steps[i] >= updates) {
      const std::string key =
          schedule.kind == GrowthScheduleKind::kAtSteps ? fmt::format("growth.schedule.at_steps[{}]", i) : "growth.schedule";
      throw InputError(fmt::format("{}: growth {} falls on step {}; allowed: after step {} and before the last, {}", key, i + 1, steps[i],
                                   before, updates));
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
    if (updates_of(from, config) <= step) now = count;
  }
  return now > 0 ? repeat_loop(plan, now) : plan;
}

double decay_factor(DecayKind kind, double fraction) {
  if (kind == DecayKind::kLinear) return 1 - fraction;
  if (kind == DecayKind::kCosine) return 0.5 * (1 + std::cos(std::numbers::pi * fraction));
  return 1 - std::sqrt(fraction);
}

}  // namespace

std::int64_t updates_of(const Amount& amount, const RunConfig& config) {
  return static_cast<std::int64_t>(std::llround(amount.in_tokens ? amount.value / static_cast<double>(config.batch.tokens) : amount.value));
}

LearningRate::LearningRate(const RunConfig& config)
    : peak(config.optimizer.lr),
      end(updates_of(config.schedule.steps, config)),
      decay(config.schedule.decay.kind),
      rewarm(config.growth ? config.growth->rewarm_steps : 0) {
  const auto updates = [&](const std::optional<Amount>& given, double share) -> std::int64_t {
    return given ? updates_of(*given, config) : std::llround(share * static_cast<double>(end));
  };
  warmup_end = updates(config.schedule.warmup, 0.01);
  decay_from = decay == DecayKind::kNone ? end : updates(config.schedule.decay.from_step, 0.85);
}

double LearningRate::at(std::int64_t n) const {
  double factor = warmup_end > 0 ? std::min(1.0, static_cast<double>(n) / static_cast<double>(warmup_end)) : 1.0;
  if (n > decay_from) factor = decay_factor(decay, static_cast<double>(n - decay_from - 1) / static_cast<double>(end - decay_from));
  double rise = 1;
  for (const std::int64_t growth : growths) {
    if (rewarm > 0 && n > growth) rise = std::min(1.0, static_cast<double>(n - growth) / static_cast<double>(rewarm));
  }
  return peak * factor * rise;
}

std::vector<std::int64_t> LearningRate::piece_ends() const {
  std::vector<std::int64_t> ends{warmup_end, decay_from, end};
  std::erase(ends, 0);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

Timeline::Timeline(const RunConfig& config)
    : rate_(config), sampled_(config.model.loop.repeats.sampled), seed_(static_cast<std::uint64_t>(config.run.seed)) {
  for (const PhaseConfig& phase : config.phases) phase_starts_.push_back(updates_of(phase.from_step, config));
  lay_out_stages(config);
  for (const Stage& stage : stages_) {
    if (stage.from_step > 0) rate_.growths.push_back(stage.from_step);
  }
  lay_out_spans(config);
}

void Timeline::lay_out_stages(const RunConfig& config) {
  if (!config.growth) {
    stages_.push_back({0, updates(), config.model.blocks, repeated(config, config.model.depth_plan.plan, updates() - 1), {}});
    return;
  }
  const auto maps = growth_maps(config);
  const auto steps = growth_steps(config, updates(), maps.size());
  for (std::size_t i = 0; i <= maps.size(); ++i) {
    Stage stage;
    stage.from_step = i == 0 ? 0 : steps[i - 1];
    stage.until_step = i < steps.size() ? steps[i] : updates();
    stage.blocks = i == 0 ? config.growth->from_blocks : static_cast<std::int64_t>(maps[i - 1].size());
    stage.plan = config.growth->plans.empty() ? DepthPlan::plain(stage.blocks) : config.growth->plans.at(i).plan;
    stage.plan = repeated(config, stage.plan, stage.until_step - 1);
    if (i > 0) stage.source_of = maps[i - 1];
    stages_.push_back(std::move(stage));
  }
}

void Timeline::lay_out_spans(const RunConfig& config) {
  std::set<std::int64_t> cuts{0};
  for (const Stage& stage : stages_) cuts.insert(stage.from_step);
  cuts.insert(phase_starts_.begin(), phase_starts_.end());
  for (const auto& [from, count] : config.model.loop.repeats.schedule) cuts.insert(updates_of(from, config));
  cuts.erase(cuts.lower_bound(updates()), cuts.end());
  cuts.insert(updates());
  for (auto cut = cuts.begin(); std::next(cut) != cuts.end(); ++cut) {
    Span span{*cut, *std::next(cut), 0, 0, {}};
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i].from_step <= span.from_step) span.stage = i;
    }
    for (std::size_t i = 0; i < phase_starts_.size(); ++i) {
      if (phase_starts_[i] <= span.from_step) span.phase = i;
    }
    const WrittenPlan own = config.phases.empty() ? WrittenPlan() : config.phases[span.phase].depth_plan;
    span.plan = repeated(config, own.empty() ? stages_[span.stage].plan : own.plan, span.from_step);
    spans_.push_back(std::move(span));
  }
}

std::size_t Timeline::stage_after(std::int64_t step) const {
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    if (step <= stages_[i].until_step) return i;
  }
  return stages_.size() - 1;
}

std::int64_t Timeline::repeats_of_update(std::int64_t n) const { return draw_repeats(*sampled_, seed_, n); }

DepthPlan Timeline::plan_of_update(const Span& span, std::int64_t n) const {
  return sampled_ ? span.plan.with_repeats(repeats_of_update(n)) : span.plan;
}

DepthPlan Timeline::longest_plan(const Span& span) const { return sampled_ ? repeat_loop(span.plan, sampled_->max) : span.plan; }

double Timeline::mean_repeats(const Span& span) const {
  const std::int64_t count = std::min<std::int64_t>(span.until_step - span.from_step, 1'000'000);
  double sum = 0;
  for (std::int64_t n = span.from_step + 1; n <= span.from_step + count; ++n) sum += static_cast<double>(repeats_of_update(n));
  return sum / static_cast<double>(count);
}

std::int64_t Timeline::most_calls() const {
  std::int64_t most = 0;
  for (const Span& span : spans_) most = std::max(most, longest_plan(span).num_calls());
  return most;
}

}  // namespace meristem
