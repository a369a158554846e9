// What a model costs before it is paid for: parameters counted from a model built without storage, FLOPs and cache as sums over the calls
// of its plan. A multiply-add is 2; causal attention counts half; training is three times forward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "config/timeline.h"
#include "models/registry.h"
#include "optim/optimizer.h"

namespace meristem {

struct ParameterCount {
  std::int64_t total = 0, embedding = 0;
  std::int64_t active = 0;  // those that one token can touch on its way; total without experts
};

struct FlopCount {
  double forward = 0, train = 0;  // per token, the head included
  std::vector<double> by_call;    // forward, per token
  double head = 0, scores = 0;    // parts of `forward`
};

// Bytes at peak on one rank.
struct MemoryEstimate {
  double weights = 0;           // fp32 masters and the compute copy
  double optimizer = 0;         // all that it keeps: moments and counts
  double gradients = 0;         // the flat fp32 buffer
  double strand_gradients = 0;  // those of the further strands, on this machine's threads where it has no GPU
  double activations = 0;       // at the peak of one micro-batch: what is saved for backward, and the workspace of the moment
  double loop_gradients =
      0;                   // part of the above while backward is in a loop: sums of what calls of one block hand on (experts by LibTorch)
  double kept = 0;         // part of them that stays from step to step: what our CPU kernels work in
  double update = 0;       // workspace of the optimizer, after activations are gone
  double growth_peak = 0;  // old and new weights and moments while a growth is under way; 0 without growth
  // At the peak of an update; a growth has its own.
  double total() const { return weights + optimizer + gradients + strand_gradients + std::max(activations, kept + update); }
};

// Strands of a micro-batch (ops/strands.h) where a CPU has so many threads: all of them, or 1. By parallel.threads, which `auto` decides:
// no strand has more than a tenth beyond its share of the sequences; each has as many tokens as make its gradients' sum cheap; and the
// gradients of all but one take at most a quarter of what the micro-batch keeps for backward, where each block is called once and none
// runs again. InputError where `sequences` was asked for and cannot be.
std::int64_t strands_of(const RunConfig& config, const Model& model, std::int64_t micro_sequences, std::int64_t threads);

struct StageCost {
  Stage stage;
  ParameterCount parameters;
  FlopCount flops;
  double kv_bytes_per_token = 0;        // kept while decoding
  double state_bytes_per_sequence = 0;  // kept while decoding beside that, however long the sequence is
  MemoryEstimate memory;
};

// Costs of a config whose model has `blocks` blocks under `plan`.
StageCost stage_cost(const RunConfig& config, const ModelRegistry& registry, const Stage& stage);

// All stages. Memory is that of the stage's most demanding plan, phases and drawn repeats counted; the growth peak of each growth
// attributed to the stage it leads to.
std::vector<StageCost> stage_costs(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry);

// An update's work as it is run, for a forecast of its time.

// FLOPs per token. A call that runs again in backward counts there; one behind a truncation has no backward. The head makes its gradients
// in forward.
struct CallRun {
  double forward = 0, backward = 0;
};

// When backward completes a parameter's gradient, and who reads the parameter first.
struct ParameterUse {
  std::int64_t complete_in = -1;  // the backward of this call; the number of calls: before the last call's begins; -1: at its very end
  double share = 1;               // of that call's backward, which has run by then
  std::int64_t first_use = -1;    // this call; the number of calls: the head; -1: before the first call
};

struct UpdateRun {
  std::vector<CallRun> calls;
  CallRun head;
  double train_flops = 0, run_flops = 0;  // per token: as FlopCount::train, and as run
  std::vector<ParameterInfo> parameters;  // without storage
  std::vector<ParameterUse> uses;         // of each parameter
};

// Of a model with the stage's blocks under its plan.
UpdateRun update_run(const RunConfig& config, const ModelRegistry& registry, const Stage& stage);

// Training FLOPs of the whole run: over spans, so that phases with their own plans count as they run, and
// with the repeats that are drawn.
double total_flops(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry);

// Baselines that truly match a depth-recurrent mixture of experts (docs/architectures.md): the same FLOPs per token, parameters and KV
// bytes, counted from built models, never from a formula. In match.cpp.

struct MatchedBaseline {
  std::string name;  // layered_moe | recurrent_without_depth_attention | layered_dense
  RunConfig config;  // the run that it replaces, but for the model; no growth, one plan
  StageCost cost;
  // Of forward FLOPs per token, parameters, KV bytes per token: 100 * (baseline / original - 1). A dense model's parameters cannot match.
  double flops_percent = 0, parameters_percent = 0, kv_percent = 0;
  bool parameters_must_match = true;

  // The largest difference that has to be small.
  double worst_percent() const;
};

struct Match {
  StageCost original;
  std::vector<MatchedBaseline> baselines;  // layered MoE, recurrent without depth attention, layered dense
};

inline constexpr double kMatchPercent = 1.0;

// Searches all whole numbers: routed experts E', active k', inner width f' in steps of 8 up to 8 times the original's, E' >= 2 k'; dense:
// inner width in steps of 8. The shape whose larger difference, of FLOPs and of parameters, is least; of those that are alike to 0.01 % the
// one whose experts are nearest in size to the original's. Its model is built and counted. InputError where the model has no experts or no
// depth attention of its own, or where nothing comes within 1 %; where E/R > k + (4 d / 3 f) (2 - 2/R) does not hold, below which a layered
// mixture has no room for its private experts, that line says so.
Match match_baselines(const RunConfig& config, const ModelRegistry& registry);

// The key=value overrides that turn the original config into the baseline's.
std::vector<std::string> overrides_of(const MatchedBaseline& baseline);

}  // namespace meristem
