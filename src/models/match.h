// Baselines that truly match a depth-recurrent mixture of experts (docs/architectures.md): the same FLOPs per token, parameters and KV
// bytes, counted from built models, never from a formula.
#pragma once

#include <string>
#include <vector>

#include "models/costs.h"

namespace meristem {

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

// Searches integers: routed experts E', active k', inner width f' in steps of 8, E' >= 2 k'; dense: inner width in steps of 8.
// Of the candidates within 0.3 % the one whose experts are nearest in size to the original's, else the closest; its model is built and
// counted. InputError where the model has no experts or no depth attention of its own, or where nothing comes within 1 %; that line names
// the bound E/R > k + (4 d / 3 f) (2 - 2/R), below which a layered mixture has no room for its private experts.
Match match_baselines(const RunConfig& config, const ModelRegistry& registry);

// The key=value overrides that turn the original config into the baseline's.
std::vector<std::string> overrides_of(const MatchedBaseline& baseline);

}  // namespace meristem
