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

void resolve_feed_forward(ModelConfig& model) {
  FeedForwardConfig& ff = model.feed_forward;
  if (ff.kind == "swiglu") {
    for (const auto& [key, given] : {std::pair{"count", ff.count != 0}, {"active", ff.active != 0}, {"shared", ff.shared != 0},
                                     {"router_dim", ff.router_dim != 0}, {"balance_rate", ff.balance_rate.has_value()}}) {
      if (given) refuse("model.feed_forward.{}: has no effect with kind: swiglu; it belongs to kind: experts", key);
    }
    if (ff.inner == 0) ff.inner = std::max<std::int64_t>(64, std::llround(static_cast<double>(model.width) * 8 / 3 / 64) * 64);
    return;
  }
  for (const auto& [key, value] : {std::pair{"count", ff.count}, {"active", ff.active}, {"inner", ff.inner}}) {
    if (value == 0) refuse("model.feed_forward.{}: is missing; kind: experts needs it", key);
  }
  if (ff.active > ff.count) refuse("model.feed_forward.active: found {}; allowed: at most count = {}", ff.active, ff.count);
  if (ff.router_dim == 0) ff.router_dim = 64;
  if (ff.router_dim % 2 != 0) refuse("model.feed_forward.router_dim: found {}; allowed: an even number, since the depth encoding has pairs", ff.router_dim);
  if (!ff.balance_rate) ff.balance_rate = 1e-3;
}

void resolve_depth_attention(std::int64_t width, DepthAttentionConfig& depth) {
  if (depth.kind != "separate") {
    for (const auto& [key, given] : {std::pair{"heads", depth.heads != 0}, {"keys", !depth.keys.empty()}, {"position", !depth.position.empty()}}) {
      if (given) refuse("model.depth_attention.{}: has no effect with kind: {}, which uses sequence attention's heads and keys", key, depth.kind);
    }
    return;
  }
  if (depth.heads == 0) depth.heads = std::max<std::int64_t>(1, width / 256);
  if (depth.keys.empty()) depth.keys = "states";
  if (depth.position.empty()) depth.position = "rope";
  if (width % depth.heads != 0) refuse("model.depth_attention.heads: found {}; allowed: a divisor of width = {}", depth.heads, width);
  if (depth.position == "rope" && width / depth.heads % 2 != 0) {
    refuse("model.depth_attention.heads: found {}, which makes heads of {}; allowed: an even width, since RoPE turns pairs", depth.heads, width / depth.heads);
  }
}

// Every block once; of a dreamer its cycle until 16 calls are made.
std::string default_plan(const ModelConfig& model) {
  constexpr std::int64_t kDreamerCalls = 16;
  if (model.architecture != "dreamer") return DepthPlan::plain(model.blocks).print();
  if (kDreamerCalls % model.blocks != 0) {
    refuse("model.blocks: found {}; allowed: a divisor of dreamer's {} calls, or give model.depth_plan", model.blocks, kDreamerCalls);
  }
  return fmt::format("({})x{}", DepthPlan::plain(model.blocks).print(), kDreamerCalls / model.blocks);
}

// A plan of the config: parsed, checked, and as its canonical text. A model with `loop` settings needs exactly one group in it, which the
// text keeps even where it runs once.
std::string resolve_plan(const std::string& text, const std::string& key, const ModelConfig& model, std::int64_t blocks) {
  const DepthPlan plan = parse_plan(text, key, blocks, true);
  if (!model.loop.is_set()) return plan.print();
  if (plan.has_one_loop()) return plan.print_loop();
  const char* setting = !model.loop.repeats.is_written() ? "repeats" : model.loop.injection != "none" ? "injection" : "backprop_last";
  refuse("{}: found {}; model.loop.{} needs exactly one loop group, such as (0-3)x2, and nothing repeated beside or in it", key, in_quotes(text), setting);
}

// Runs after the schedule's check: a step beyond the run is a mistake of this key.
void check_loop(const RunConfig& config) {
  const LoopConfig& loop = config.model.loop;
  std::int64_t before = -1;
  for (const auto& [from, count] : loop.repeats.schedule) {
    const std::string key = "model.loop.repeats." + (from.in_tokens ? number_text(from.value) + " tokens" : amount_text(from));
    const std::int64_t step = steps_of(from, config);
    if (before < 0 && step != 0) refuse("{}: found update {}; the first entry is for update 0", key, step);
    if (step <= before) refuse("{}: found update {}; allowed: after the entry before, {}", key, step, before);
    if (step >= total_steps(config)) refuse("{}: found update {}; allowed: below schedule.steps = {}", key, step, total_steps(config));
    before = step;
  }
  if (loop.repeats.sampled && loop.repeats.sampled->mean > static_cast<double>(loop.repeats.sampled->max)) {
    refuse("model.loop.repeats.max: found {}; allowed: at least mean = {}", loop.repeats.sampled->max, number_text(loop.repeats.sampled->mean));
  }
}

// The plans as they will run: their lengths, and whether a truncation ever truncates.
void check_repeats(const RunConfig& config) {
  const LoopConfig& loop = config.model.loop;
  if (!loop.is_set()) return;
  std::int64_t most = 0;
  for (const Segment& segment : segments(config)) most = std::max(most, longest_plan(config, segment).loop()->repeats);
  if (loop.backprop_last && *loop.backprop_last >= most) {
    refuse("model.loop.backprop_last: found {}; has no effect where the loop runs at most {} times", *loop.backprop_last, most);
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
  resolve_feed_forward(model);
  if (model.depth_attention) resolve_depth_attention(model.width, *model.depth_attention);
  if (model.depth_plan.empty()) model.depth_plan = default_plan(model);
  model.depth_plan = resolve_plan(model.depth_plan, "model.depth_plan", model, model.blocks);
}

void resolve_data(RunConfig& config) {
  DataConfig& data = config.data;
  if (data.sources.empty()) refuse("data.sources: is missing; at least one source is required");
  if (data.validation.sources.empty() && data.validation.every > 0) refuse("data.validation.every: has no effect without a validation source");
  if (data.validation.sources.empty() && data.validation.tokens > 0) refuse("data.validation.tokens: has no effect without a validation source");
  if (data.packing == "best_fit" && !data.document_mask) refuse("data.packing: best_fit contradicts data.document_mask: false");
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

// `from`: the update after which phase i begins.
void check_ramp(const RunConfig& config, std::size_t i, std::int64_t from) {
  const std::int64_t ramp = config.phases[i].ramp_steps;
  if (i == 0 && ramp > 0) refuse("phases[0].ramp_steps: has no effect; there is no phase before the first");
  const bool last = i + 1 == config.phases.size();
  const std::int64_t end = last ? total_steps(config) : steps_of(config.phases[i + 1].from_step, config);
  if (end > from && ramp > end - from) refuse("phases[{}].ramp_steps: found {}; allowed: at most the phase's {} updates", i, ramp, end - from);
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
    check_ramp(config, i, from);
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
  const bool plain = DepthPlan::parse(config.model.depth_plan).is_plain() && !config.model.loop.is_set();
  if (!plain && growth.plans.empty()) refuse("growth.plans: is missing; model.depth_plan {} is not plain, so every stage needs its plan", config.model.depth_plan);
  if (growth.plans.empty()) return;
  // Without plans the stages can be counted; then each plan is held against its stage.
  RunConfig counted = config;
  counted.growth->plans.clear();
  counted.model.loop = {};
  const auto stages = growth_stages(counted);
  if (growth.plans.size() != stages.size()) refuse("growth.plans: has {} plans; there are {} stages", growth.plans.size(), stages.size());
  for (std::size_t i = 0; i < stages.size(); ++i) {
    growth.plans[i] = resolve_plan(growth.plans[i], fmt::format("growth.plans[{}]", i), config.model, stages[i].blocks);
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
    phase.depth_plan = resolve_plan(phase.depth_plan, key, config.model, config.model.blocks);
    if (steps_of(phase.from_step, config) < stages.back().from_step) {
      refuse("{}: the phase begins at {}, before full depth is reached at {}; use growth.plans", key, steps_of(phase.from_step, config), stages.back().from_step);
    }
  }
}

void check_early_stop(const RunConfig& config) {
  const ValidationConfig& validation = config.data.validation;
  if (validation.every == 0) refuse("early_stop: needs validation during the run; set data.validation.every");
  if (config.early_stop->source.empty()) return;
  std::vector<std::string> names;
  for (const auto& source : validation.sources) names.push_back(source.first);
  if (std::find(names.begin(), names.end(), config.early_stop->source) != names.end()) return;
  const auto near = did_you_mean(config.early_stop->source, names);
  refuse("early_stop.source: {} is no source of data.validation{}", in_quotes(config.early_stop->source), near ? " (did you mean " + *near + "?)" : "");
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
  if (config.early_stop) check_early_stop(config);
  if (config.initial && config.initial->checkpoint.empty()) refuse("initial.checkpoint: is empty; allowed: a checkpoint or a run folder");
  if (config.optimizer.betas.size() != 2) refuse("optimizer.betas: found {} numbers; allowed: two", config.optimizer.betas.size());
  if (config.precision.residual.empty()) config.precision.residual = config.precision.compute;
  if (config.precision.compute == "fp32" && config.precision.residual == "bf16") {
    refuse("precision.residual: bf16 contradicts precision.compute: fp32");
  }
  check_phases(config);
  check_loop(config);
  if (config.growth) check_growth(config);
  check_phase_plans(config);
  check_repeats(config);
  refuse_without_effect(config);
  check_rules(config);
}

}  // namespace meristem
