#include "config/validate.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "config/effects.h"
#include "config/rules.h"
#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 60;

template <class... Arguments>
[[noreturn]] void refuse(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw InputError(fmt::format(text, std::forward<Arguments>(arguments)...));
}

// Errors of the plan library, under the key that held the plan.
DepthPlan parse_plan(const std::string& text, const std::string& key, std::int64_t blocks, bool every_block) {
  try {
    DepthPlan plan = DepthPlan::parse(text);
    plan.check(blocks, every_block);
    return plan;
  } catch (const InputError& error) {
    throw InputError(key + ": " + error.what());
  }
}

void resolve_model(ModelConfig& model) {
  AttentionConfig& attention = model.attention;
  if (attention.kv_heads == 0) attention.kv_heads = attention.heads;
  if (attention.heads % attention.kv_heads != 0) {
    refuse("model.attention.kv_heads: found {}; allowed: a divisor of heads = {}", attention.kv_heads, attention.heads);
  }
  if (attention.head_dim == 0) {
    if (model.width % attention.heads != 0) refuse("model.attention.heads: found {}; allowed: a divisor of width = {}, or give head_dim", attention.heads, model.width);
    attention.head_dim = model.width / attention.heads;
  }
  if (attention.head_dim % 2 != 0) refuse("model.attention.head_dim: found {}; allowed: an even number, since RoPE turns pairs", attention.head_dim);
  if (model.feed_forward.inner == 0) {
    model.feed_forward.inner = std::max<std::int64_t>(64, std::llround(static_cast<double>(model.width) * 8 / 3 / 64) * 64);
  }
  if (model.depth_plan.empty()) model.depth_plan = DepthPlan::plain(model.blocks).print();
  model.depth_plan = parse_plan(model.depth_plan, "model.depth_plan", model.blocks, true).print();
}

void resolve_data(RunConfig& config) {
  DataConfig& data = config.data;
  if (data.sources.empty()) refuse("data.sources: is missing; at least one source is required");
  if (data.validation.sources.empty() && data.validation.every > 0) refuse("data.validation.every: has no effect without a validation source");
  if (data.validation.sources.empty() && data.validation.tokens > 0) refuse("data.validation.tokens: has no effect without a validation source");
  if (!config.phases.empty()) return;
  PhaseConfig phase;
  phase.name = "all";
  for (const auto& source : data.sources) phase.mixture.emplace_back(source.first, 1.0);
  config.phases.push_back(std::move(phase));
}

void resolve_batch(RunConfig& config) {
  BatchConfig& batch = config.batch;
  const std::int64_t length = config.data.sequence_length;
  if (batch.tokens % length != 0) refuse("batch.tokens: found {}; allowed: a multiple of data.sequence_length = {}", batch.tokens, length);
  const std::int64_t sequences = batch.tokens / length;
  if (batch.micro_sequences == 0) {
    batch.micro_sequences = std::min<std::int64_t>(8, sequences);
    while (sequences % batch.micro_sequences != 0) --batch.micro_sequences;
  }
  if (sequences % batch.micro_sequences != 0) {
    refuse("batch.micro_sequences: found {}; allowed: a divisor of the {} sequences of a batch", batch.micro_sequences, sequences);
  }
}

void check_schedule(const RunConfig& config) {
  const std::int64_t steps = total_steps(config), warmup = warmup_steps(config);
  if (steps < 1) refuse("schedule.steps: is less than one update");
  // Token counts are whole numbers of 64 bits, and leave room for sums.
  if (steps > kMostTokens / config.batch.tokens) {
    refuse("schedule.steps: found {} updates of {} tokens; allowed: at most {} tokens in a run", steps, config.batch.tokens, kMostTokens);
  }
  if (warmup > steps) refuse("schedule.warmup: found {} updates; allowed: at most schedule.steps = {}", warmup, steps);
  const DecayConfig& decay = config.schedule.decay;
  if (decay.kind == "none" && decay.from_step) refuse("schedule.decay.from_step: contradicts schedule.decay.kind: none");
  if (decay.kind == "none") return;
  const std::int64_t from = decay_from_step(config);
  if (from >= steps && decay.from_step) refuse("schedule.decay.from_step: found update {}; allowed: below schedule.steps = {}", from, steps);
  if (from < warmup) refuse("schedule.decay.from_step: found update {}; allowed: at or after the warmup's end, {}", from, warmup);
}

void check_phases(const RunConfig& config) {
  std::set<std::string> names, known;
  for (const auto& source : config.data.sources) known.insert(source.first);
  std::int64_t before = -1;
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    const PhaseConfig& phase = config.phases[i];
    const std::string at = fmt::format("phases[{}]", i);
    if (!names.insert(phase.name).second) refuse("{}.name: {} is taken already; names must differ", at, in_quotes(phase.name));
    const std::int64_t from = steps_of(phase.from_step, config);
    if (i == 0 && from != 0) refuse("{}.from_step: found {}; the first phase begins at 0", at, from);
    if (from <= before) refuse("{}.from_step: found {}; allowed: after the phase before, {}", at, from, before);
    if (from >= total_steps(config)) refuse("{}.from_step: found {}; allowed: below schedule.steps = {}", at, from, total_steps(config));
    before = from;
    double sum = 0;
    for (const auto& [source, weight] : phase.mixture) {
      if (!known.contains(source)) {
        const std::vector<std::string> candidates(known.begin(), known.end());
        const auto near = did_you_mean(source, candidates);
        refuse("{}.mixture.{}: no such source in data.sources{}", at, printable(source), near ? " (did you mean " + *near + "?)" : "");
      }
      sum += weight;
    }
    if (!(sum > 0)) refuse("{}.mixture: the weights sum to zero; at least one source needs a weight", at);
  }
}

void resolve_growth(GrowthConfig& growth) {
  if (growth.schedule.kind == "prop" && !growth.schedule.alpha) growth.schedule.alpha = GrowthScheduleConfig::kAlpha;
  if (growth.schedule.kind == "prop" && !growth.schedule.until) growth.schedule.until = GrowthScheduleConfig::kUntil;
  if (growth.op != "stack" && growth.op != "map" && !growth.add_blocks) growth.add_blocks = GrowthConfig::kAddBlocks;
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
    refuse("growth.add_blocks: found {}; {} blocks cannot reach model.blocks = {} in steps of it", *growth.add_blocks, growth.from_blocks, config.model.blocks);
  }
  const bool plain = DepthPlan::parse(config.model.depth_plan).is_plain();
  if (!plain && growth.plans.empty()) refuse("growth.plans: is missing; model.depth_plan {} is not plain, so every stage needs its plan", config.model.depth_plan);
  if (growth.plans.empty()) return;
  // Without plans the stages can be counted; then each plan is held against its stage.
  RunConfig counted = config;
  counted.growth->plans.clear();
  const auto stages = growth_stages(counted);
  if (growth.plans.size() != stages.size()) refuse("growth.plans: has {} plans; there are {} stages", growth.plans.size(), stages.size());
  for (std::size_t i = 0; i < stages.size(); ++i) {
    growth.plans[i] = parse_plan(growth.plans[i], fmt::format("growth.plans[{}]", i), stages[i].blocks, true).print();
  }
  if (growth.plans.back() != config.model.depth_plan) {
    refuse("growth.plans[{}]: found {}; the last stage's plan is model.depth_plan, {}", growth.plans.size() - 1, growth.plans.back(), config.model.depth_plan);
  }
}

void check_phase_plans(RunConfig& config) {
  const auto stages = growth_stages(config);
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    PhaseConfig& phase = config.phases[i];
    if (phase.depth_plan.empty()) continue;
    const std::string key = fmt::format("phases[{}].depth_plan", i);
    phase.depth_plan = parse_plan(phase.depth_plan, key, config.model.blocks, true).print();
    if (steps_of(phase.from_step, config) < stages.back().from_step) {
      refuse("{}: the phase begins at {}, before full depth is reached at {}; use growth.plans", key, steps_of(phase.from_step, config), stages.back().from_step);
    }
  }
}

void check_run_name(const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.size() <= 200;
  if (!plain) refuse("run.name: found {}; allowed: a plain folder name", in_quotes(name));
}

}  // namespace

void resolve_and_validate(RunConfig& config) {
  check_run_name(config.run.name);
  resolve_model(config.model);
  resolve_data(config);
  resolve_batch(config);
  check_schedule(config);
  if (config.optimizer.betas.size() != 2) refuse("optimizer.betas: found {} numbers; allowed: two", config.optimizer.betas.size());
  if (config.precision.residual.empty()) config.precision.residual = config.precision.compute;
  if (config.precision.compute == "fp32" && config.precision.residual == "bf16") {
    refuse("precision.residual: bf16 contradicts precision.compute: fp32");
  }
  check_phases(config);
  if (config.growth) check_growth(config);
  check_phase_plans(config);
  refuse_without_effect(config);
  check_rules(config);
}

}  // namespace meristem
