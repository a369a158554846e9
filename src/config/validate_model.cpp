// The model section, and what changes its depth over a run: loops, growth, plans of phases.
#include <algorithm>
#include <cmath>

#include "config/reader.h"
#include "config/timeline.h"
#include "config/validate.h"
#include "core/text.h"

namespace meristem {
namespace {

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
  if (ff.kind != FeedForwardKind::kExperts) {
    for (const auto& [key, given] : {std::pair{"count", ff.count != 0},
                                     {"active", ff.active != 0},
                                     {"shared", ff.shared != 0},
                                     {"router_dim", ff.router_dim != 0},
                                     {"balance_rate", ff.balance_rate.has_value()}}) {
      if (given) refuse("model.feed_forward.{}: has no effect with kind: {}; it belongs to kind: experts", key, word_of(ff.kind));
    }
    if (ff.inner == 0) ff.inner = std::max<std::int64_t>(64, std::llround(static_cast<double>(model.width) * 8 / 3 / 64) * 64);
    return;
  }
  for (const auto& [key, value] : {std::pair{"count", ff.count}, {"active", ff.active}, {"inner", ff.inner}}) {
    if (value == 0) refuse("model.feed_forward.{}: is missing; kind: experts needs it", key);
  }
  if (ff.active > ff.count) refuse("model.feed_forward.active: found {}; allowed: at most count = {}", ff.active, ff.count);
  if (ff.router_dim == 0) ff.router_dim = 64;
  if (ff.router_dim % 2 != 0)
    refuse("model.feed_forward.router_dim: found {}; allowed: an even number, since the depth encoding has pairs", ff.router_dim);
  if (!ff.balance_rate) ff.balance_rate = 1e-3;
}

void resolve_depth_attention(std::int64_t width, DepthAttentionConfig& depth) {
  if (depth.kind != DepthAttentionKind::kSeparate) {
    for (const auto& [key, given] :
         {std::pair{"heads", depth.heads != 0}, {"keys", depth.keys.has_value()}, {"position", depth.position.has_value()}}) {
      if (given)
        refuse("model.depth_attention.{}: has no effect with kind: {}, which uses sequence attention's heads and keys", key,
               word_of(depth.kind));
    }
    return;
  }
  if (depth.heads == 0) depth.heads = std::max<std::int64_t>(1, width / 256);
  if (!depth.keys) depth.keys = DepthKeys::kStates;
  if (!depth.position) depth.position = DepthPosition::kRope;
  if (width % depth.heads != 0) refuse("model.depth_attention.heads: found {}; allowed: a divisor of width = {}", depth.heads, width);
  if (depth.position == DepthPosition::kRope && width / depth.heads % 2 != 0) {
    refuse("model.depth_attention.heads: found {}, which makes heads of {}; allowed: an even width, since RoPE turns pairs", depth.heads,
           width / depth.heads);
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

// Of the config, under `key`: parsed, checked, and as its canonical text. A model with `loop` settings needs exactly one group in it, which
// the text keeps even where it runs once.
void resolve_plan(WrittenPlan& written, const std::string& key, const ModelConfig& model, std::int64_t blocks) {
  const DepthPlan plan = parse_plan(written.text, key, blocks, true);
  if (model.loop.is_set() && !plan.has_one_loop()) {
    const char* setting = !model.loop.repeats.is_written()           ? "repeats"
                          : model.loop.injection != Injection::kNone ? "injection"
                                                                     : "backprop_last";
    refuse("{}: found {}; model.loop.{} needs exactly one loop group, such as (0-3)x2, and nothing repeated beside or in it", key,
           in_quotes(written.text), setting);
  }
  written = model.plan_text(plan);
}

void resolve_growth(GrowthConfig& growth) {
  if (growth.schedule.kind == GrowthScheduleKind::kProp && !growth.schedule.alpha) growth.schedule.alpha = GrowthScheduleConfig::kAlpha;
  if (growth.schedule.kind == GrowthScheduleKind::kProp && !growth.schedule.until) growth.schedule.until = GrowthScheduleConfig::kUntil;
  if (growth.op != GrowthOperator::kStack && growth.op != GrowthOperator::kMap && !growth.add_blocks)
    growth.add_blocks = GrowthConfig::kAddBlocks;
}

// The stages without what is not resolved yet.
std::vector<Stage> stages_without_phases(RunConfig config) {
  config.phases.clear();
  return Timeline(config).stages();
}

}  // namespace

void resolve_model(ModelConfig& model) {
  AttentionConfig& attention = model.attention;
  if (attention.kv_heads == 0) attention.kv_heads = attention.heads;
  if (attention.heads % attention.kv_heads != 0) {
    refuse("model.attention.kv_heads: found {}; allowed: a divisor of heads = {}", attention.kv_heads, attention.heads);
  }
  if (attention.head_dim == 0) {
    if (model.width % attention.heads != 0)
      refuse("model.attention.heads: found {}; allowed: a divisor of width = {}, or give head_dim", attention.heads, model.width);
    attention.head_dim = model.width / attention.heads;
  }
  if (attention.head_dim % 2 != 0)
    refuse("model.attention.head_dim: found {}; allowed: an even number, since RoPE turns pairs", attention.head_dim);
  if (attention.qk_norm_over != QkNormOver::kHeads && !attention.qk_norm)
    refuse("model.attention.qk_norm_over: has no effect with model.attention.qk_norm: false");
  if (attention.rope_scaling && attention.rope_scaling->low_freq_factor >= attention.rope_scaling->high_freq_factor) {
    refuse("model.attention.rope_scaling.low_freq_factor: found {}; allowed: below high_freq_factor = {}",
           number_text(attention.rope_scaling->low_freq_factor), number_text(attention.rope_scaling->high_freq_factor));
  }
  if (attention.full_every > 0 && attention.window == 0) refuse("model.attention.full_every: has no effect with model.attention.window: 0");
  if (model.depth_attention && model.depth_attention->kind == DepthAttentionKind::kJoint) {
    if (attention.window > 0)
      refuse("model.attention.window: found {}; allowed: 0 with model.depth_attention.kind: joint", attention.window);
    if (attention.score_cap > 0)
      refuse("model.attention.score_cap: found {}; allowed: 0 with model.depth_attention.kind: joint", number_text(attention.score_cap));
  }
  resolve_feed_forward(model);
  if (model.depth_attention) resolve_depth_attention(model.width, *model.depth_attention);
  if (model.depth_plan.empty()) model.depth_plan = default_plan(model);
  resolve_plan(model.depth_plan, "model.depth_plan", model, model.blocks);
}

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

// A block whose number decides what it is has no copy at a number that decides otherwise.
void refuse_mixed_blocks(const AttentionConfig& attention, const std::vector<std::int64_t>& source_of, const std::string& key) {
  const auto refuse_copy = [&](std::int64_t block, std::int64_t source, const char* setting, std::int64_t every, const char* what) {
    refuse(
        "{}: block {} would be a copy of block {}, and model.attention.{} = {} gives only one of them {}; allowed: growth by whole "
        "groups of {}",
        key, block, source, setting, every, what, every);
  };
  for (std::size_t i = 0; i < source_of.size(); ++i) {
    const auto block = static_cast<std::int64_t>(i);
    const std::int64_t source = source_of[i];
    if (attention.turns(block) != attention.turns(source)) refuse_copy(block, source, "no_rope_every", attention.no_rope_every, "RoPE");
    if (attention.window_of(block) != attention.window_of(source))
      refuse_copy(block, source, "full_every", attention.full_every, "a window");
  }
}

void check_silent_growth(const ModelConfig& model, const DepthPlan& before, const DepthPlan& plan,
                         const std::vector<std::int64_t>& source_of, const std::string& key) {
  if (norms_outputs(model.norm))
    refuse("{}: silent contradicts model.norm: {}, which gives what a mixer returns full size at once", key, word_of(model.norm));
  if (model.depth_attention)
    refuse("{}: silent contradicts model.depth_attention, which also reads the calls of blocks that add nothing", key);
  if (!same_calls_without_inserted(before.calls(), plan.calls(), source_of))
    refuse(
        "{}: silent: the plan {} without its inserted blocks is not {} with them renumbered, so the growth would change what the model "
        "computes",
        key, plan.print_grouped(), before.print_grouped());
}

void check_silent(const RunConfig& config) {
  if (config.growth->inserted != InsertedBlocks::kSilent) return;
  const auto stages = stages_without_phases(config);
  for (std::size_t i = 1; i < stages.size(); ++i)
    check_silent_growth(config.model, stages[i - 1].plan, stages[i].plan, stages[i].source_of, "growth.inserted");
}

void check_growth(RunConfig& config) {
  GrowthConfig& growth = *config.growth;
  resolve_growth(growth);
  const GrowthScheduleConfig& schedule = growth.schedule;
  if (schedule.kind == GrowthScheduleKind::kProp && !schedule.at_steps.empty())
    refuse("growth.schedule.at_steps: contradicts growth.schedule.kind: prop");
  if (schedule.kind == GrowthScheduleKind::kAtSteps && schedule.at_steps.empty())
    refuse("growth.schedule.at_steps: is missing; kind: at_steps needs it");
  if (growth.op == GrowthOperator::kMap && growth.maps.empty()) refuse("growth.maps: is missing; operator: map needs it");
  if (growth.op != GrowthOperator::kMap && !growth.maps.empty()) refuse("growth.maps: contradicts growth.operator: {}", word_of(growth.op));
  if (growth.from_blocks >= config.model.blocks) {
    refuse("growth.from_blocks: found {}; allowed: below model.blocks = {}", growth.from_blocks, config.model.blocks);
  }
  if (growth.op != GrowthOperator::kMap && growth.op != GrowthOperator::kStack &&
      (config.model.blocks - growth.from_blocks) % *growth.add_blocks != 0) {
    refuse("growth.add_blocks: found {}; {} blocks cannot reach model.blocks = {} in steps of it", *growth.add_blocks, growth.from_blocks,
           config.model.blocks);
  }
  const bool plain = config.model.depth_plan.plan.is_plain() && !config.model.loop.is_set();
  if (!plain && growth.plans.empty())
    refuse("growth.plans: is missing; model.depth_plan {} is not plain, so every stage needs its plan", config.model.depth_plan.text);
  // Without plans the stages can be counted; then each plan is held against its stage.
  RunConfig counted = config;
  counted.growth->plans.clear();
  counted.model.loop = {};
  const auto stages = stages_without_phases(counted);
  for (const Stage& stage : stages) refuse_mixed_blocks(config.model.attention, stage.source_of, "growth.operator");
  if (growth.plans.empty()) return check_silent(config);
  if (growth.plans.size() != stages.size()) refuse("growth.plans: has {} plans; there are {} stages", growth.plans.size(), stages.size());
  for (std::size_t i = 0; i < stages.size(); ++i) {
    resolve_plan(growth.plans[i], fmt::format("growth.plans[{}]", i), config.model, stages[i].blocks);
  }
  if (growth.plans.back().text != config.model.depth_plan.text) {
    refuse("growth.plans[{}]: found {}; the last stage's plan is model.depth_plan, {}", growth.plans.size() - 1, growth.plans.back().text,
           config.model.depth_plan.text);
  }
  check_silent(config);
}

void check_phase_plans(RunConfig& config) {
  const std::int64_t full_depth = stages_without_phases(config).back().from_step;
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    PhaseConfig& phase = config.phases[i];
    if (phase.depth_plan.empty()) continue;
    const std::string key = fmt::format("phases[{}].depth_plan", i);
    resolve_plan(phase.depth_plan, key, config.model, config.model.blocks);
    const std::int64_t from = updates_of(phase.from_step, config);
    if (from < full_depth) {
      refuse("{}: the phase begins at {}, before full depth is reached at {}; use growth.plans", key, from, full_depth);
    }
  }
}

}  // namespace meristem
