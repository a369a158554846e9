// What a config may hold, in one place: every key with its member, allowed values and meaning. Parsing, dumping and the reference page
// are visitors of these descriptions, so they cannot disagree.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace meristem {

struct Rule {
  std::string meaning;
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool above_min = false, below_max = false;  // the bound itself is not allowed
  std::vector<std::string> allowed = {};      // for text: the only values; empty: any
  bool required = false;
};

inline Rule any(std::string meaning) { return {std::move(meaning)}; }
inline Rule required(std::string meaning, double min) {
  return {std::move(meaning), min, std::numeric_limits<double>::infinity(), false, false, {}, true};
}
inline Rule at_least(double min, std::string meaning) { return {std::move(meaning), min}; }
inline Rule above(double min, std::string meaning) { return {std::move(meaning), min, std::numeric_limits<double>::infinity(), true}; }
inline Rule within(double min, double max, std::string meaning, bool below_max = false, bool above_min = false) {
  return {std::move(meaning), min, max, above_min, below_max};
}
inline Rule one_of(std::vector<std::string> allowed, std::string meaning) {
  Rule rule{std::move(meaning)};
  rule.allowed = std::move(allowed);
  return rule;
}

// A visitor V has: value(key, member, rule); section(key, member, meaning); optional_section(key, member, meaning);
// sections(key, vector, meaning); sources(key, vector, meaning); rest_sources(vector, meaning) for the keys not named before;
// numbers(key, vector, meaning); value_or_section(key, member, meaning).

template <class V>
void describe(V& v, RunSection& c) {
  v.value("name", c.name, any("Name of the run; its folder is OUT/NAME"));
  v.value("seed", c.seed, within(0, 9e15, "Seed of everything random; all streams derive from it"));
  v.value("out", c.out, any("Folder that holds run folders"));
  v.value("deterministic", c.deterministic, any("On a GPU: only operators with bit-equal results run to run"));
}
template <class V>
void describe(V& v, InitialConfig& c) {
  v.value("checkpoint", c.checkpoint, [] {
    Rule r = any("A checkpoint, or a run folder: its newest. Weights only; the run begins at step 0 with a fresh optimizer");
    r.required = true;
    return r;
  }());
  v.value(
      "source_of", c.source_of,
      within(
          0, 4095,
          "Block i begins as a copy of the checkpoint's block source_of[i]; a loop is untied by naming its blocks twice. Empty: as it is"));
}
template <class V>
void describe(V& v, EarlyStopConfig& c) {
  v.value("patience", c.patience, [] {
    Rule r = required("Validations in a row without improvement after which the run ends", 1);
    r.max = 1e6;
    return r;
  }());
  v.value("source", c.source, any("Validation source that is watched. Empty: the mean of all"));
  v.value("min_delta", c.min_delta, within(0, 1e3, "Nats below the best loss so far that count as an improvement"));
}
template <class V>
void describe(V& v, AttentionConfig& c) {
  v.value("heads", c.heads, within(1, 4096, "Query heads"));
  v.value("kv_heads", c.kv_heads, within(0, 4096, "Key/value heads; divides heads. 0: as many as heads"));
  v.value("head_dim", c.head_dim, within(0, 4096, "Width of a head, even. 0: width / heads"));
  v.value("rope_theta", c.rope_theta, within(0, 1e12, "Base of the rotary frequencies", false, true));
  v.value("qk_norm", c.qk_norm, any("RMSNorm of each head's query and key before RoPE"));
}
template <class V>
void describe(V& v, FeedForwardConfig& c) {
  v.value("kind", c.kind, one_of({"swiglu", "experts"}, "Kind of feed-forward"));
  v.value("inner", c.inner, within(0, 1 << 24, "Hidden width, of each expert. 0: for swiglu the multiple of 64 nearest to 8/3 width"));
  v.value("count", c.count, within(0, 1 << 20, "experts: routed experts of a block"));
  v.value("active", c.active, within(0, 1 << 20, "experts: routed experts that a token uses in one call; at most count"));
  v.value("shared", c.shared, within(0, 1 << 10, "experts: further experts that are always on"));
  v.value("router_dim", c.router_dim, within(0, 1 << 16, "experts: width of the router's queries and keys, even. 0: 64"));
  v.value("balance_rate", c.balance_rate, within(0, 1, "experts: step of the balance bias after each update; 0: none. null: 1e-3"));
}
template <class V>
void describe(V& v, DepthAttentionConfig& c) {
  v.value("kind", c.kind,
          one_of({"separate", "joint", "values"},
                 "separate: a mixer of its own; joint: depth keys in sequence attention's softmax; values: sequence attention's values "
                 "mixed over depth"));
  v.value("heads", c.heads, within(0, 4096, "separate: heads; divides width. 0: one for each 256 of width"));
  v.value("keys", c.keys,
          one_of({"states", "updates", ""},
                 "separate: keys and values are made of the token's states, or of what each call added. Empty: states"));
  v.value("position", c.position, one_of({"rope", "none", ""}, "separate: RoPE over the depth index. Empty: rope"));
}
// The map form of model.loop.repeats that draws. Its first key is `kind`.
struct SampledRepeats {
  RepeatDistribution& distribution;
  std::string kind = {};
};
template <class V>
void describe(V& v, SampledRepeats& c) {
  Rule kind = one_of({"poisson_lognormal"}, "1 + Poisson(rate), the rate log-normal"),
       max = within(1, DepthPlan::kMaxCalls, "Draws above it are this");
  kind.required = max.required = true;
  v.value("kind", c.kind, kind);
  v.value("mean", c.distribution.mean, [] {
    Rule r = required("Mean of the repeats", 1);
    r.max = DepthPlan::kMaxCalls;
    return r;
  }());
  v.value("sigma", c.distribution.sigma, within(0, 4, "Deviation of the rate's logarithm"));
  v.value("max", c.distribution.max, max);
}
template <class V>
void describe(V& v, LoopConfig& c) {
  v.value("repeats", c.repeats,
          within(1, DepthPlan::kMaxCalls,
                 "Repeats of the plan's one loop, in place of the count in its text: a number; {UPDATE: number, …} from update 0 on; or "
                 "{kind: poisson_lognormal, mean, sigma, max}, drawn for each update. null: as written"));
  v.value(
      "injection", c.injection,
      one_of({"none", "add", "concat"}, "What each repeat gets of the loop's first input e: nothing; h + e; or a learned map of [h, e]"));
  v.value("backprop_last", c.backprop_last,
          within(1, DepthPlan::kMaxCalls, "Gradients flow through the last so many repeats. null: through all"));
}
template <class V>
void describe(V& v, ModelConfig& c) {
  v.value("architecture", c.architecture, any("Registered architecture: decoder"));
  v.value("vocab_size", c.vocab_size, [] {
    Rule r = required("Size of the vocabulary", 2);
    r.max = 1 << 24;
    return r;
  }());
  v.value("width", c.width, within(1, 1 << 17, "Width of the residual stream"));
  v.value("blocks", c.blocks, within(1, 4096, "Unique blocks at full depth"));
  v.value("depth_plan", c.depth_plan, any("Block calls that a token passes through, e.g. \"0-3, (4-7)x4, 8-11\". Empty: every block once"));
  v.value("norm", c.norm, one_of({"pre", "sandwich"}, "pre: before each mixer; sandwich: also after each addition to the residual stream"));
  v.section("loop", c.loop, "The plan's loop");
  v.value("norm_eps", c.norm_eps, within(0, 1, "Epsilon of RMSNorm", false, true));
  v.section("attention", c.attention, "Sequence attention");
  v.section("feed_forward", c.feed_forward, "Feed-forward");
  v.optional_section("depth_attention", c.depth_attention, "Attention of a token over its own earlier states; null: none");
  v.value("tie_embeddings", c.tie_embeddings, any("The output head is the embedding"));
  v.numbers("options", c.options, "An architecture's own numbers; which there are, its line of registration says");
}
template <class V>
void describe(V& v, GrowthScheduleConfig& c) {
  v.value("kind", c.kind, one_of({"prop", "at_steps"}, "prop: stage i gets steps in proportion to i^alpha; at_steps: by hand"));
  v.value("alpha", c.alpha, within(0, 16, "prop: exponent. null: 1"));
  v.value("until", c.until, within(0, 1, "prop: fraction of the run that the stages share. null: 0.85", false, true));
  v.value("at_steps", c.at_steps, at_least(0, "at_steps: growth happens after these updates"));
}
template <class V>
void describe(V& v, GrowthConfig& c) {
  v.value("operator", c.op, one_of({"midas", "lidas", "append", "stack", "map"}, "Which blocks are duplicated, and where"));
  v.value("from_blocks", c.from_blocks, within(1, 4096, "Blocks of the first stage"));
  v.value("add_blocks", c.add_blocks, within(1, 4096, "Blocks that each growth adds. null: 4; not with stack and map"));
  v.value("maps", c.maps, at_least(0, "operator map: for each growth the source block of every new block, e.g. [[0, 1, 1, 2]]"));
  v.section("schedule", c.schedule, "When the model grows");
  v.value("moments", c.moments, one_of({"copy", "zero"}, "Optimizer state of the inserted copies"));
  v.value("rewarm_steps", c.rewarm_steps,
          within(0, 1e9, "Updates over which the learning rate rises again after a growth; 0: it does not"));
  v.value("plans", c.plans, any("One depth plan a stage, the last equal to model.depth_plan. Empty: plain plans"));
}
template <class V>
void describe(V& v, SourceConfig& c) {
  v.value("path", c.path, [] {
    Rule r = any("Prefix of PATH.bin and PATH.idx");
    r.required = true;
    return r;
  }());
  v.value("max_repeats", c.max_repeats, within(0, 1e6, "Most epochs of this source; 0: no limit"));
}
template <class V>
void describe(V& v, ValidationConfig& c) {
  v.value("every", c.every, within(0, 1e12, "Updates between validations; 0: only at the end"));
  v.value("tokens", c.tokens, within(0, 1e15, "Tokens of each source in a validation; 0: all"));
  v.rest_sources(c.sources, "Held-out source by its name");
}
template <class V>
void describe(V& v, DataConfig& c) {
  v.value("tokenizer", c.tokenizer, any("tokenizer.json; copied into the run folder, its size checked against the model"));
  v.value("sequence_length", c.sequence_length, within(1, 1 << 24, "Tokens of a sequence"));
  v.value("document_mask", c.document_mask, any("Attention sees its own document only; positions restart with each"));
  v.value("packing", c.packing,
          one_of({"concat", "best_fit"},
                 "concat: documents one after another, cut where a sequence is full. best_fit: whole documents packed into sequences, best "
                 "fit decreasing; for SFT"));
  v.sources("sources", c.sources, "Training source by its name");
  v.section("validation", c.validation, "Held-out loss");
}
template <class V>
void describe(V& v, PhaseConfig& c) {
  v.value("name", c.name, [] {
    Rule r = any("Name of the phase");
    r.required = true;
    return r;
  }());
  v.value("from_step", c.from_step, within(0, 1e18, "The phase applies to updates after this one"));
  v.numbers("mixture", c.mixture, "Weight of each source; normalised");
  v.value("ramp_steps", c.ramp_steps,
          within(0, 1e9, "Updates over which the shares move here in a straight line from those of the phase before; 0: at once"));
  v.value("depth_plan", c.depth_plan, any("Depth plan from here on. Empty: unchanged"));
}
template <class V>
void describe(V& v, OptimizerConfig& c) {
  v.value("kind", c.kind, one_of({"adamw"}, "Optimizer"));
  v.value("lr", c.lr, within(0, 1e3, "Peak learning rate", false, true));
  v.value("betas", c.betas, within(0, 1, "Decay of the first and second moment", true));
  v.value("eps", c.eps, within(0, 1, "Added to the denominator", false, true));
  v.value("weight_decay", c.weight_decay, within(0, 10, "Decoupled decay of matrices; norms and embeddings have none"));
  v.value("clip_norm", c.clip_norm, within(0, 1e9, "Largest gradient norm; 0: no clipping"));
  v.value("decay_embeddings", c.decay_embeddings, any("Embeddings decay too"));
  v.value("skip_spikes", c.skip_spikes, any("Skip updates whose loss or gradient norm exceeds a robust threshold over the last 128"));
}
template <class V>
void describe(V& v, DecayConfig& c) {
  v.value("kind", c.kind, one_of({"one_minus_sqrt", "linear", "cosine", "none"}, "Form of the decay to zero"));
  v.value("from_step", c.from_step, within(0, 1e18, "The decay begins after this update. null: 85 % of the run"));
}
template <class V>
void describe(V& v, ScheduleConfig& c) {
  v.value("steps", c.steps, within(0, 1e18, "Length of the run", false, true));
  v.value("warmup", c.warmup, within(0, 1e18, "Updates over which the learning rate rises. null: 1 % of the run"));
  v.section("decay", c.decay, "End of the run");
}
template <class V>
void describe(V& v, BatchConfig& c) {
  v.value("tokens", c.tokens, within(1, 1e12, "Tokens of one update over all ranks; a multiple of sequence_length"));
  v.value("micro_sequences", c.micro_sequences,
          within(0, 1e9, "Sequences of one forward pass. 0: the largest divisor of the batch up to 8"));
}
template <class V>
void describe(V& v, PrecisionConfig& c) {
  v.value("compute", c.compute, one_of({"fp32", "bf16"}, "Type of weight copies, matrix products and saved activations"));
  v.value("residual", c.residual, one_of({"fp32", "bf16", ""}, "Type of the residual stream. Empty: as compute"));
}
template <class V>
void describe(V& v, KernelsConfig& c) {
  for (const auto& op : kOperators<std::string>) v.value(op.key, c.*op.of, one_of({"reference", "library", "fused", "auto"}, op.meaning));
  v.value("graph", c.graph,
          one_of({"off", "on", "auto"}, "On a GPU the step runs as captured CUDA graphs. auto: where a GPU has been shown to"));
}
template <class V>
void describe(V& v, MemoryConfig& c) {
  v.value("activation_checkpointing", c.activation_checkpointing,
          within(1, DepthPlan::kMaxCalls,
                 "none; block: each call keeps its input alone and runs again in backward; {every: k}: every k-th call does"));
}
template <class V>
void describe(V& v, CheckpointConfig& c) {
  v.value(
      "every", c.every,
      within(0, 1e12,
             "Updates between checkpoints; the ends of stages, phases and pieces of the learning rate are always written. 0: only those"));
  v.value("keep_last", c.keep_last, within(1, 1e6, "Newest checkpoints kept"));
  v.value("keep_every", c.keep_every, within(0, 1e12, "Checkpoints at multiples of this are kept for good; 0: none"));
  v.value("async", c.async_, any("Write behind training; it waits for the copy only"));
}
template <class V>
void describe(V& v, LoggingConfig& c) {
  v.value("every", c.every, within(1, 1e9, "Updates between lines of metrics.jsonl"));
  v.value("tensorboard", c.tensorboard, any("Write TensorBoard event files"));
  v.value("sample_every", c.sample_every, within(0, 1e12, "Updates between samples; 0: one at the end"));
  v.value("sample_tokens", c.sample_tokens, within(0, 1e6, "Tokens of a sample; 0: none"));
}
template <class V>
void describe(V& v, RunConfig& c) {
  v.section("run", c.run, "The run");
  v.optional_section("initial", c.initial, "Weights to begin with; null: drawn from run.seed");
  v.section("model", c.model, "The model");
  v.optional_section("growth", c.growth, "Growth while training; null: none");
  v.section("data", c.data, "Data");
  v.sections("phases", c.phases, "What changes over the run. Empty: one phase of equal weights");
  v.section("optimizer", c.optimizer, "Optimizer");
  v.section("schedule", c.schedule, "Length and learning rate; amounts are steps, or tokens as \"50e9 tokens\"");
  v.optional_section("early_stop", c.early_stop, "End of the run where validation no longer improves; null: none");
  v.section("batch", c.batch, "Batch");
  v.section("precision", c.precision, "Number types");
  v.value_or_section("kernels", c.kernels, "reference | library | fused | auto, for all operators or one by one");
  v.section("memory", c.memory, "Memory");
  v.section("checkpoint", c.checkpoint, "Checkpoints");
  v.section("logging", c.logging, "Logging");
}

}  // namespace meristem
