// What a model costs before it is paid for: parameters counted from a model built without storage, FLOPs and cache as sums over the calls
// of its plan. A multiply-add is 2; causal attention counts half; training is three times forward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "config/timeline.h"
#include "models/registry.h"

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
  double weights = 0;         // fp32 masters and the compute copy
  double optimizer = 0;       // all that it keeps: moments and counts
  double gradients = 0;       // the flat fp32 buffer
  double activations = 0;     // at the peak of one micro-batch: what is saved for backward, and the workspace of the moment
  double loop_gradients = 0;  // part of the above while backward is in a loop: sums for blocks that are called more than once
  double update = 0;          // workspace of the optimizer, after activations are gone
  double growth_peak = 0;     // old and new weights and moments while a growth is under way; 0 without growth
  // At the peak of an update; a growth has its own.
  double total() const { return weights + optimizer + gradients + std::max(activations, update); }
};

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

// Training FLOPs of the whole run: over spans, so that phases with their own plans count as they run, and
// with the repeats that are drawn.
double total_flops(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry);

}  // namespace meristem
