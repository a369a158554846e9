// A model with its flat parameters and its optimizer: what a growth replaces as a whole.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "config/timeline.h"
#include "core/named_tensors.h"
#include "distributed/ranks.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"
#include "optim/optimizer.h"

namespace meristem {

class LiveModel {
 public:
  // A model of `blocks` blocks with starting values from config.run.seed where `fresh`, else unset until load(). Several ranks each make
  // their copy; where the optimizer is sharded, each keeps state for its own pieces.
  LiveModel(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device, std::int64_t blocks,
            bool fresh, std::shared_ptr<Ranks> ranks = Ranks::alone());

  Model& model() { return *model_; }
  FlatParameters& parameters() { return *parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  Ranks& ranks() { return *ranks_; }
  std::int64_t blocks() const { return model_config_.blocks; }
  const ops::Paths& paths() const { return build_.paths; }

  // Weights and optimizer state by name. DamagedError where they are not this model's.
  void load(const NamedTensors& weights, const NamedTensors& optimizer);

  // Calls take(name, tensor) for each fp32 weight, or all that the optimizer keeps, in order: whole tensors on the device, to be read at
  // once. Where ranks keep parts of them this brings them together, so all ranks have to call it. Weights are awaited by the caller.
  using Take = std::function<void(const std::string& name, const at::Tensor& tensor)>;
  void each_weight(const Take& take) const;
  void each_state(const Take& take) const;

  // A new model whose block i, its moments and step counts included, is a copy of this one's block source_of[i].
  // inserted, moments: what the inserted copies start with (growth.inserted, growth.moments). Several ranks with a sharded optimizer: all
  // of the state passes through the host's memory, since blocks change owners.
  std::unique_ptr<LiveModel> grown(const std::vector<std::int64_t>& source_of, InsertedBlocks inserted = InsertedBlocks::kCopy,
                                   InsertedMoments moments = InsertedMoments::kCopy) const;

 private:
  LiveModel(const RunConfig& config, ModelConfig model, ModelBuild build, const ModelRegistry& registry, bool fresh,
            std::shared_ptr<Ranks> ranks);

  const RunConfig& config_;
  ModelConfig model_config_;
  ModelBuild build_;
  const ModelRegistry& registry_;
  std::shared_ptr<Ranks> ranks_;
  bool sharded_;
  std::shared_ptr<Model> model_;
  std::unique_ptr<FlatParameters> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
};

// Types and kernels of a run on a device.
ModelBuild model_build(const RunConfig& config, const Timeline& timeline, at::Device device);

}  // namespace meristem
