// The typed configuration of a run. Field names are the YAML keys, letter for letter; docs/configuration.md is tested against these
// structs. Defaults make a ten-line config enough. Units stand in the names or in the comment.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/kernels_config.h"
#include "depth/plan.h"
#include "depth/repeats.h"

namespace meristem {

// An amount of training: optimizer steps, or tokens (input positions; written "2e9 tokens"), turned into updates by updates_of().
struct Amount {
  double value = 0;
  bool in_tokens = false;
};

struct RunSection {
  std::string name = "run";
  std::int64_t seed = 1;
  std::string out = "runs";
  bool deterministic = false;
};

// Where the weights come from that a run begins with, at step 0 and with a fresh optimizer.
struct InitialConfig {
  std::string checkpoint;               // a checkpoint, or a run folder: its newest
  std::vector<std::int64_t> source_of;  // block i begins as a copy of the checkpoint's block source_of[i]; empty: as it is
};

struct AttentionConfig {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;  // 0: as many as heads (resolved by validate)
  std::int64_t head_dim = 0;  // 0: width / heads (resolved by validate)
  double rope_theta = 10000;
  bool qk_norm = false;
};

struct FeedForwardConfig {
  std::string kind = "swiglu";
  std::int64_t inner = 0;  // swiglu, 0: the multiple of 64 nearest to 8/3 width (resolved by validate); experts: of each, required
  // Of kind experts alone.
  std::int64_t count = 0, active = 0;  // routed experts, and how many of them a call uses; required
  std::int64_t shared = 0;             // experts that are always on, beside the routed ones
  std::int64_t router_dim = 0;         // 0: 64 (resolved by validate)
  std::optional<double> balance_rate;  // null: 1e-3 (resolved by validate)
};

struct DepthAttentionConfig {
  std::string kind = "separate";  // separate | joint | values
  // Of kind separate alone; resolved by validate.
  std::int64_t heads = 0;  // 0: one for each 256 of width
  std::string keys;        // states | updates; empty: states
  std::string position;    // rope | none; empty: rope
};

// How often the plan's one loop runs (model.loop.repeats). At most one member is set; none: as the plan's text says.
struct RepeatsConfig {
  std::optional<std::int64_t> number;
  std::vector<std::pair<Amount, std::int64_t>> schedule;  // {0: 1, 170000: 2}: from each update on, that many repeats
  std::optional<RepeatDistribution> sampled;              // {kind: poisson_lognormal, …}: drawn for each update
  bool is_written() const { return !number && schedule.empty() && !sampled; }
};

struct LoopConfig {
  RepeatsConfig repeats;
  std::string injection = "none";             // none | add | concat: what a repeat is told of the loop's first input
  std::optional<std::int64_t> backprop_last;  // gradients flow through the last so many repeats; null: through all
  bool is_set() const { return !repeats.is_written() || injection != "none" || backprop_last.has_value(); }
};

struct ModelConfig {
  std::string architecture = "decoder";
  std::int64_t vocab_size = 0;  // required
  std::int64_t width = 256;
  std::int64_t blocks = 6;   // unique blocks at full depth
  std::string depth_plan;    // empty: "0-(blocks-1)" (resolved by validate)
  std::string norm = "pre";  // pre | sandwich
  LoopConfig loop;
  double norm_eps = 1e-5;
  AttentionConfig attention;
  FeedForwardConfig feed_forward;
  std::optional<DepthAttentionConfig> depth_attention;
  bool tie_embeddings = true;
  std::vector<std::pair<std::string, double>> options;  // an architecture's own numbers; which there are, the architecture says

  // A plan of this model as text: its loop stays a group, even where that runs once, if there are settings for it.
  std::string plan_text(const DepthPlan& plan) const { return loop.is_set() ? plan.print_loop() : plan.print(); }

  // options[key] as a whole number, `otherwise` where it is not set.
  std::int64_t option(const std::string& key, std::int64_t otherwise) const {
    for (const auto& [name, value] : options) {
      if (name == key) return static_cast<std::int64_t>(value);
    }
    return otherwise;
  }
};

struct GrowthScheduleConfig {
  static constexpr double kAlpha = 1, kUntil = 0.85;
  std::string kind = "prop";     // prop | at_steps
  std::optional<double> alpha;   // prop: exponent; null: 1 (resolved)
  std::optional<double> until;   // prop: fraction of the run that the stages share; null: 0.85 (resolved)
  std::vector<Amount> at_steps;  // at_steps: growth happens after these updates
};

struct GrowthConfig {
  static constexpr std::int64_t kAddBlocks = 4;
  std::string op = "lidas";  // YAML key `operator`: midas | lidas | append | stack | map
  std::int64_t from_blocks = 4;
  std::optional<std::int64_t> add_blocks;       // null: 4, and none with stack and map (resolved)
  std::vector<std::vector<std::int64_t>> maps;  // operator map: source_of of each growth step
  GrowthScheduleConfig schedule;
  std::string moments = "copy";  // copy | zero
  std::int64_t rewarm_steps = 0;
  std::vector<std::string> plans;  // one plan text a stage, the last equal to model.depth_plan; empty: plain plans
};

struct SourceConfig {
  std::string path;        // prefix of PATH.bin/PATH.idx, or a file that data/ can read
  double max_repeats = 0;  // 0: unlimited; else the source may be read at most this many epochs
};

struct ValidationConfig {
  std::vector<std::pair<std::string, SourceConfig>> sources;  // the keys beside `every` and `tokens`
  std::int64_t every = 0;                                     // steps; 0: only at the end of the run
  double tokens = 0;                                          // per source and validation; 0: the whole source once
};

struct DataConfig {
  std::string tokenizer;
  std::int64_t sequence_length = 256;
  bool document_mask = true;
  std::string packing = "concat";                             // concat | best_fit
  std::vector<std::pair<std::string, SourceConfig>> sources;  // in file order: ties of the mixture go by it
  ValidationConfig validation;
};

// The run ends where validation has not improved for `patience` validations in a row.
struct EarlyStopConfig {
  std::int64_t patience = 0;  // required
  std::string source;         // the validation source that is watched; empty: the mean of all
  double min_delta = 0;       // nats that count as an improvement
};

struct PhaseConfig {
  std::string name;
  Amount from_step;  // applies to updates n > from_step
  std::vector<std::pair<std::string, double>> mixture;
  std::int64_t ramp_steps = 0;  // updates over which the shares move there from those of the phase before; 0: at once
  std::string depth_plan;       // empty: unchanged
};

struct OptimizerConfig {
  std::string kind = "adamw";
  double lr = 3e-4;
  std::vector<double> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip_norm = 1.0;  // 0: no clipping
  bool decay_embeddings = false;
  bool skip_spikes = false;
};

struct DecayConfig {
  std::string kind = "one_minus_sqrt";  // one_minus_sqrt | linear | cosine | none
  std::optional<Amount> from_step;      // null: 85 % of the run
};

struct ScheduleConfig {
  Amount steps{1000, false};
  std::optional<Amount> warmup;  // null: 1 % of the run
  DecayConfig decay;
};

struct BatchConfig {
  std::int64_t tokens = 16384;       // global, a multiple of sequence_length
  std::int64_t micro_sequences = 0;  // sequences of one forward pass; accumulation is derived. 0: the largest divisor up to 8 (resolved)
};

struct PrecisionConfig {
  std::string compute = "fp32";  // bf16 | fp32
  std::string residual;          // bf16 | fp32; empty: as compute
};

// Which calls drop their activations and run again in backward: call i where i is a multiple of `every`.
struct ActivationCheckpointing {
  std::int64_t every = 0;  // 0: none; 1: block, every call
};

struct MemoryConfig {
  ActivationCheckpointing activation_checkpointing;
};

struct CheckpointConfig {
  std::int64_t every = 1000;  // steps; 0: only the steps that are always written
  std::int64_t keep_last = 3;
  std::int64_t keep_every = 0;  // steps; 0: none kept beyond keep_last
  bool async_ = true;           // YAML key `async`
};

struct LoggingConfig {
  std::int64_t every = 10;
  bool tensorboard = true;
  std::int64_t sample_every = 0;  // steps; 0: a sample at the end of the run only
  std::int64_t sample_tokens = 200;
};

struct RunConfig {
  RunSection run;
  std::optional<InitialConfig> initial;
  ModelConfig model;
  std::optional<GrowthConfig> growth;
  DataConfig data;
  std::vector<PhaseConfig> phases;  // empty in the file: one phase of equal weights (resolved by validate)
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  std::optional<EarlyStopConfig> early_stop;
  BatchConfig batch;
  PrecisionConfig precision;
  KernelsConfig kernels;
  MemoryConfig memory;
  CheckpointConfig checkpoint;
  LoggingConfig logging;
};

}  // namespace meristem
