// The typed configuration of a run. Field names are the YAML keys, letter for letter; docs/configuration.md is written from the
// descriptions beside these structs. Defaults make a ten-line config enough. Units stand in the names or in the comment; "resolved" says
// that validate fills the value in.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/model_config.h"
#include "core/kernels_config.h"
#include "depth/growth.h"

namespace meristem {

struct RunSection {
  std::string name = "run";
  std::int64_t seed = 1;
  std::string out = "runs";
  bool deterministic = false;
};
template <class V>
void describe(V& v, RunSection& c) {
  v.value("name", c.name, any("Name of the run; its folder is OUT/NAME"));
  v.value("seed", c.seed, within(0, 9e15, "Seed of all random numbers"));
  v.value("out", c.out, any("Folder that holds run folders"));
  v.value("deterministic", c.deterministic, any("On a GPU: use only operators whose results are equal to the bit from run to run"));
}

// Where the weights come from that a run begins with, at step 0 and with a fresh optimizer.
struct InitialConfig {
  std::string checkpoint;               // a checkpoint, or a run folder: its newest
  std::vector<std::int64_t> source_of;  // block i begins as a copy of the checkpoint's block source_of[i]; empty: as it is
};
template <class V>
void describe(V& v, InitialConfig& c) {
  v.value("checkpoint", c.checkpoint,
          required(any("A checkpoint, or a run folder (its newest checkpoint). Only weights are read: the run begins at step 0 with a "
                       "fresh optimizer")));
  v.value("source_of", c.source_of,
          within(0, 4095,
                 "Block i begins as a copy of the checkpoint's block source_of[i]; name the blocks of a loop twice to untie it. Empty: as "
                 "it is"));
}

enum class GrowthScheduleKind { kProp, kAtSteps };
constexpr auto words_of(GrowthScheduleKind) { return std::array{"prop", "at_steps"}; }
enum class InsertedMoments { kCopy, kZero };
constexpr auto words_of(InsertedMoments) { return std::array{"copy", "zero"}; }
enum class InsertedBlocks { kCopy, kSilent };
constexpr auto words_of(InsertedBlocks) { return std::array{"copy", "silent"}; }

struct GrowthScheduleConfig {
  static constexpr double kAlpha = 1, kUntil = 0.85;
  GrowthScheduleKind kind = GrowthScheduleKind::kProp;
  std::optional<double> alpha;   // prop: exponent; null: 1 (resolved)
  std::optional<double> until;   // prop: fraction of the run that the stages share; null: 0.85 (resolved)
  std::vector<Amount> at_steps;  // at_steps: growth after these updates
};
template <class V>
void describe(V& v, GrowthScheduleConfig& c) {
  v.value("kind", c.kind, one_of<GrowthScheduleKind>("prop: stage i gets steps in proportion to i^alpha; at_steps: by hand"));
  v.value("alpha", c.alpha, within(0, 16, "prop: exponent. null: 1"));
  v.value("until", c.until, within(0, 1, "prop: fraction of the run that the stages share. null: 0.85", false, true));
  v.value("at_steps", c.at_steps, at_least(0, "at_steps: growth after these updates"));
}

struct GrowthConfig {
  static constexpr std::int64_t kAddBlocks = 4;
  GrowthOperator op = GrowthOperator::kLidas;  // YAML key `operator`
  std::int64_t from_blocks = 4;
  std::optional<std::int64_t> add_blocks;       // null: 4, and none with stack and map (resolved)
  std::vector<std::vector<std::int64_t>> maps;  // operator map: source_of of each growth step
  GrowthScheduleConfig schedule;
  InsertedBlocks inserted = InsertedBlocks::kCopy;
  InsertedMoments moments = InsertedMoments::kCopy;
  std::int64_t rewarm_steps = 0;
  std::vector<WrittenPlan> plans;  // one a stage, the last equal to model.depth_plan; empty: plain plans
};
template <class V>
void describe(V& v, GrowthConfig& c) {
  v.value("operator", c.op, one_of<GrowthOperator>("Which blocks are duplicated, and where"));
  v.value("from_blocks", c.from_blocks, within(1, 4096, "Blocks of the first stage"));
  v.value("add_blocks", c.add_blocks, within(1, 4096, "Blocks that each growth adds. null: 4; not with stack and map"));
  v.value("maps", c.maps, at_least(0, "operator map: for each growth the source block of every new block, e.g. [[0, 1, 1, 2]]"));
  v.section("schedule", c.schedule, "When the model grows");
  v.value("inserted", c.inserted,
          one_of<InsertedBlocks>("Weights of the inserted copies. silent: those of their mixers' last maps are zero, so that a growth "
                                 "does not change what the model computes"));
  v.value("moments", c.moments, one_of<InsertedMoments>("Optimizer state of the inserted copies"));
  v.value("rewarm_steps", c.rewarm_steps,
          within(0, 1e9, "Updates over which the learning rate rises again from zero after a growth; 0: it does not drop"));
  v.value("plans", c.plans, any("One depth plan for each stage; the last one equals model.depth_plan. Empty: plain plans"));
}

struct SourceConfig {
  std::string path;        // prefix of PATH.bin/PATH.idx, or a file that data/ can read
  double max_repeats = 0;  // 0: unlimited; else the source may be read at most this many epochs
};
template <class V>
void describe(V& v, SourceConfig& c) {
  v.value("path", c.path, required(any("Prefix of PATH.bin and PATH.idx")));
  v.value("max_repeats", c.max_repeats, within(0, 1e6, "Largest number of epochs of this source; 0: no limit"));
}

struct ValidationConfig {
  std::vector<std::pair<std::string, SourceConfig>> sources;  // the keys beside `every` and `tokens`
  std::int64_t every = 0;                                     // steps; 0: only at the end of the run
  double tokens = 0;                                          // per source and validation; 0: the whole source once
};
template <class V>
void describe(V& v, ValidationConfig& c) {
  v.value("every", c.every, within(0, 1e12, "Updates between validations; 0: only at the end"));
  v.value("tokens", c.tokens, within(0, 1e15, "Tokens of each source in a validation; 0: all"));
  v.rest_sources(c.sources, "Held-out source by its name");
}

enum class Packing { kConcat, kBestFit };
constexpr auto words_of(Packing) { return std::array{"concat", "best_fit"}; }

struct DataConfig {
  std::string tokenizer;
  std::int64_t sequence_length = 256;
  bool document_mask = true;
  Packing packing = Packing::kConcat;
  std::vector<std::pair<std::string, SourceConfig>> sources;  // in file order: ties of the mixture go by it
  ValidationConfig validation;
};
template <class V>
void describe(V& v, DataConfig& c) {
  v.value("tokenizer", c.tokenizer, any("tokenizer.json; copied into the run folder, its size checked against the model"));
  v.value("sequence_length", c.sequence_length, within(1, 1 << 24, "Tokens of a sequence"));
  v.value("document_mask", c.document_mask, any("Attention stays within a document, and positions restart with each document"));
  v.value("packing", c.packing,
          one_of<Packing>(
              "concat: documents one after another, cut where a sequence is full. best_fit: whole documents packed into sequences, best "
              "fit decreasing; for SFT"));
  v.sources("sources", c.sources, "Training source by its name");
  v.section("validation", c.validation, "Held-out loss");
}

struct PhaseConfig {
  std::string name;
  Amount from_step;  // applies to updates n > from_step
  std::vector<std::pair<std::string, double>> mixture;
  std::int64_t ramp_steps = 0;  // updates over which the shares move there from those of the phase before; 0: at once
  WrittenPlan depth_plan;       // empty: unchanged
};
template <class V>
void describe(V& v, PhaseConfig& c) {
  v.value("name", c.name, required(any("Name of the phase")));
  v.value("from_step", c.from_step, within(0, 1e18, "The phase applies to updates after this one"));
  v.numbers("mixture", c.mixture, "Weight of each source; normalised");
  v.value("ramp_steps", c.ramp_steps,
          within(0, 1e9, "Updates over which the shares change linearly from those of the phase before; 0: at once"));
  v.value("depth_plan", c.depth_plan, any("Depth plan from here on. Empty: unchanged"));
}

enum class OptimizerKind { kAdamw, kMuon };
constexpr auto words_of(OptimizerKind) { return std::array{"adamw", "muon"}; }
enum class MuonScale { kMoonlight, kOriginal };
constexpr auto words_of(MuonScale) { return std::array{"moonlight", "original"}; }

struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  std::int64_t ns_steps = 5;
  MuonScale scale = MuonScale::kMoonlight;
  std::optional<double> lr;  // null: optimizer.lr
};
template <class V>
void describe(V& v, MuonConfig& c) {
  v.value("momentum", c.momentum, within(0, 1, "Decay of the momentum", true, true));
  v.value("nesterov", c.nesterov, any("Nesterov momentum: the update mixes the gradient and the new momentum. false: the momentum alone"));
  v.value("ns_steps", c.ns_steps, within(1, 20, "Newton-Schulz steps that orthogonalise an update"));
  v.value("scale", c.scale,
          one_of<MuonScale>("moonlight: 0.2 sqrt(max(rows, columns)), so updates are as large as AdamW's and one lr serves both; "
                            "original: sqrt(max(1, rows / columns)), with an lr of its own"));
  v.value("lr", c.lr,
          within(0, 1e3, "Peak learning rate of Muon's matrices; required with scale: original. null: optimizer.lr", false, true));
}

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdamw;
  double lr = 3e-4;
  std::vector<double> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip_norm = 1.0;  // 0: no clipping
  bool decay_embeddings = false;
  bool skip_spikes = false;
  std::optional<MuonConfig> muon;  // set where kind is muon, and there alone (resolved)
};
template <class V>
void describe(V& v, OptimizerConfig& c) {
  v.value("kind", c.kind,
          one_of<OptimizerKind>("muon: Muon for the matrices between hidden states, AdamW for embeddings, heads, norms and routers"));
  v.value("lr", c.lr, within(0, 1e3, "Peak learning rate", false, true));
  v.value("betas", c.betas, within(0, 1, "AdamW: decay of the first and second moment", true));
  v.value("eps", c.eps, within(0, 1, "AdamW: added to the denominator", false, true));
  v.value("weight_decay", c.weight_decay, within(0, 10, "Decoupled weight decay of matrices; norms and embeddings are not decayed"));
  v.value("clip_norm", c.clip_norm, within(0, 1e9, "Gradients are clipped to this norm; 0: no clipping"));
  v.value("decay_embeddings", c.decay_embeddings, any("Decay embeddings too"));
  v.value("skip_spikes", c.skip_spikes, any("Skip updates whose loss or gradient norm exceeds a robust threshold over the last 128"));
  v.optional_section("muon", c.muon, "kind muon: its settings (docs/optimizers.md). null: the defaults");
}

enum class DecayKind { kOneMinusSqrt, kLinear, kCosine, kNone };
constexpr auto words_of(DecayKind) { return std::array{"one_minus_sqrt", "linear", "cosine", "none"}; }

struct DecayConfig {
  DecayKind kind = DecayKind::kOneMinusSqrt;
  std::optional<Amount> from_step;  // null: 85 % of the run
};
template <class V>
void describe(V& v, DecayConfig& c) {
  v.value("kind", c.kind, one_of<DecayKind>("Form of the decay to zero"));
  v.value("from_step", c.from_step, within(0, 1e18, "The decay begins after this update. null: 85 % of the run"));
}

struct ScheduleConfig {
  Amount steps{1000, false};
  std::optional<Amount> warmup;  // null: 1 % of the run
  DecayConfig decay;
};
template <class V>
void describe(V& v, ScheduleConfig& c) {
  v.value("steps", c.steps, within(0, 1e18, "Length of the run", false, true));
  v.value("warmup", c.warmup, within(0, 1e18, "Updates over which the learning rate rises. null: 1 % of the run"));
  v.section("decay", c.decay, "End of the run");
}

// The run ends where validation has not improved for `patience` validations in a row.
struct EarlyStopConfig {
  std::int64_t patience = 0;  // required
  std::string source;         // the validation source that is watched; empty: the mean of all
  double min_delta = 0;       // nats that count as an improvement
};
template <class V>
void describe(V& v, EarlyStopConfig& c) {
  v.value("patience", c.patience, required(within(1, 1e6, "The run ends after this many validations in a row without improvement")));
  v.value("source", c.source, any("Validation source that is watched. Empty: the mean of all"));
  v.value("min_delta", c.min_delta, within(0, 1e3, "An improvement is at least this many nats below the best loss so far"));
}

struct BatchConfig {
  std::int64_t tokens = 16384;       // global, a multiple of sequence_length
  std::int64_t micro_sequences = 0;  // sequences of one forward pass; accumulation is derived. 0: the largest divisor up to 8 (resolved)
};
template <class V>
void describe(V& v, BatchConfig& c) {
  v.value("tokens", c.tokens, within(1, 1e12, "Tokens of one update over all ranks; a multiple of sequence_length"));
  v.value("micro_sequences", c.micro_sequences,
          within(0, 1e9, "Sequences of one forward pass. 0: the largest divisor of the batch up to 8"));
}

enum class Precision { kFp32, kBf16 };
constexpr auto words_of(Precision) { return std::array{"fp32", "bf16"}; }

struct PrecisionConfig {
  Precision compute = Precision::kFp32;
  std::optional<Precision> residual;  // empty: as compute (resolved)
};
template <class V>
void describe(V& v, PrecisionConfig& c) {
  v.value("compute", c.compute, one_of<Precision>("Type of weight copies, matrix products and saved activations"));
  v.value("residual", c.residual, one_of_or_empty<Precision>("Type of the residual stream. Empty: as compute"));
}

// KernelsConfig is core's.
template <class V>
void describe(V& v, KernelsConfig& c) {
  for (const auto& op : kOperators<std::string>) v.value(op.key, c.*op.of, one_of({"reference", "library", "fused", "auto"}, op.meaning));
  v.value("graph", c.graph,
          one_of({"off", "on", "auto"}, "On a GPU, run each update as captured CUDA graphs. auto: only if kernels/proven.json lists it"));
}

// Which calls drop their activations and run again in backward: call i where i is a multiple of `every`.
struct ActivationCheckpointing {
  std::int64_t every = 0;  // 0: none; 1: block, every call
};

struct MemoryConfig {
  ActivationCheckpointing activation_checkpointing;
};
template <class V>
void describe(V& v, MemoryConfig& c) {
  v.value("activation_checkpointing", c.activation_checkpointing,
          within(1, DepthPlan::kMaxCalls,
                 "none; block: each call saves only its input and runs again in backward; {every: k}: every k-th call does that"));
}

enum class Wire { kFp32, kBf16 };
constexpr auto words_of(Wire) { return std::array{"fp32", "bf16"}; }

// How the threads of a CPU share a micro-batch.
enum class ThreadWork { kAuto, kSequences, kOperators };
constexpr auto words_of(ThreadWork) { return std::array{"auto", "sequences", "operators"}; }

// All but the first matters where several ranks train together; one rank reads none of it.
struct ParallelConfig {
  ThreadWork threads = ThreadWork::kAuto;
  bool shard_optimizer = true;
  Wire reduce = Wire::kFp32;
  double bucket_mb = 32;
  std::int64_t check_replicas_every = 1000;  // updates; 0: never
  double timeout_seconds = 600, heartbeat_seconds = 30, join_seconds = 60;
};
template <class V>
void describe(V& v, ParallelConfig& c) {
  v.value("threads", c.threads,
          one_of<ThreadWork>("On a CPU: each thread takes sequences of its own through the whole model, or all share each operator. auto: "
                             "sequences where they are shared evenly and the gradients of each thread fit beside the activations"));
  v.value("shard_optimizer", c.shard_optimizer,
          any("Each rank keeps the optimizer state of a part of the parameters and updates that part (ZeRO-1). The result is the same"));
  v.value("reduce", c.reduce, one_of<Wire>("Type in which gradients travel between ranks"));
  v.value("bucket_mb", c.bucket_mb, within(0, 4096, "Gradients travel in buckets of about this many MB, while backward runs", false, true));
  v.value("check_replicas_every", c.check_replicas_every,
          within(0, 1e12, "Updates between checks that all ranks hold the same weights; 0: never"));
  v.value("timeout_seconds", c.timeout_seconds,
          within(0, 86400, "The run ends where ranks wait for one another longer than this", false, true));
  v.value("heartbeat_seconds", c.heartbeat_seconds,
          within(0, 86400, "The run ends where nothing is heard of a rank for this long", false, true));
  v.value("join_seconds", c.join_seconds, within(0, 86400, "The start fails where ranks are missing after this long", false, true));
}

struct CheckpointConfig {
  std::int64_t every = 1000;  // steps; 0: only the steps that are always written
  std::int64_t keep_last = 3;
  std::int64_t keep_every = 0;  // steps; 0: none kept beyond keep_last
  bool async_ = true;           // YAML key `async`
};
template <class V>
void describe(V& v, CheckpointConfig& c) {
  v.value("every", c.every,
          within(0, 1e12,
                 "Updates between checkpoints; the ends of stages, phases and pieces of the learning rate are always written. 0: only "
                 "those"));
  v.value("keep_last", c.keep_last, within(1, 1e6, "Newest checkpoints kept"));
  v.value("keep_every", c.keep_every, within(0, 1e12, "Checkpoints at multiples of this are never deleted; 0: none"));
  v.value("async", c.async_, any("Write in the background; training waits only for the copy"));
}

struct LoggingConfig {
  std::int64_t every = 10;
  bool tensorboard = true;
  std::int64_t sample_every = 0;  // steps; 0: a sample at the end of the run only
  std::int64_t sample_tokens = 200;
};
template <class V>
void describe(V& v, LoggingConfig& c) {
  v.value("every", c.every, within(1, 1e9, "Updates between lines of metrics.jsonl"));
  v.value("tensorboard", c.tensorboard, any("Write TensorBoard event files"));
  v.value("sample_every", c.sample_every, within(0, 1e12, "Updates between samples; 0: one at the end"));
  v.value("sample_tokens", c.sample_tokens, within(0, 1e6, "Tokens of a sample; 0: none"));
}

struct RunConfig {
  RunSection run;
  std::optional<InitialConfig> initial;
  ModelConfig model;
  std::optional<GrowthConfig> growth;
  DataConfig data;
  std::vector<PhaseConfig> phases;  // empty in the file: one phase of equal weights (resolved)
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  std::optional<EarlyStopConfig> early_stop;
  BatchConfig batch;
  PrecisionConfig precision;
  KernelsConfig kernels;
  MemoryConfig memory;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  LoggingConfig logging;
};
template <class V>
void describe(V& v, RunConfig& c) {
  v.section("run", c.run, "The run");
  v.optional_section("initial", c.initial, "Initial weights from a checkpoint; null: random, from run.seed");
  v.section("model", c.model, "The model");
  v.optional_section("growth", c.growth, "Growth during training; null: none");
  v.section("data", c.data, "Data");
  v.sections("phases", c.phases, "What changes during the run. Empty: one phase, with equal weights of all sources");
  v.section("optimizer", c.optimizer, "Optimizer");
  v.section("schedule", c.schedule, "Length and learning rate; amounts are steps, or tokens as \"50e9 tokens\"");
  v.optional_section("early_stop", c.early_stop, "Stop when validation no longer improves; null: never");
  v.section("batch", c.batch, "Batch");
  v.section("precision", c.precision, "Number types");
  v.value_or_section("kernels", c.kernels, "Path of the operators: reference, library, fused or auto; one value for all, or one for each");
  v.section("memory", c.memory, "Memory");
  v.section("parallel", c.parallel, "Threads and ranks");
  v.section("checkpoint", c.checkpoint, "Checkpoints");
  v.section("logging", c.logging, "Logging");
}

}  // namespace meristem
