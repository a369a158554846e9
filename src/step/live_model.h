// A model with its flat parameters and its optimizer: what a growth replaces as a whole.
#pragma once

#include <memory>

#include "config/timeline.h"
#include "core/named_tensors.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"
#include "optim/optimizer.h"

namespace meristem {

class LiveModel {
 public:
  // A model of `blocks` blocks with starting values from config.run.seed where `fresh`, else unset until load().
  LiveModel(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device, std::int64_t blocks,
            bool fresh);

  Model& model() { return *model_; }
  FlatParameters& parameters() { return *parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  std::int64_t blocks() const { return model_config_.blocks; }
  const ops::Paths& paths() const { return build_.paths; }

  // Weights and optimizer state by name. DamagedError where they are not this model's.
  void load(const NamedTensors& weights, const NamedTensors& optimizer);

  // A new model whose block i, its moments and step counts included, is a copy of this one's block source_of[i].
  // zero_moments: the inserted copies start with zero moments and step count.
  std::unique_ptr<LiveModel> grown(const std::vector<std::int64_t>& source_of, bool zero_moments) const;

 private:
  LiveModel(const RunConfig& config, ModelConfig model, ModelBuild build, const ModelRegistry& registry, bool fresh);

  const RunConfig& config_;
  ModelConfig model_config_;
  ModelBuild build_;
  const ModelRegistry& registry_;
  std::shared_ptr<Model> model_;
  std::unique_ptr<FlatParameters> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
};

// Types and kernels of a run on a device.
ModelBuild model_build(const RunConfig& config, const Timeline& timeline, at::Device device);

}  // namespace meristem
