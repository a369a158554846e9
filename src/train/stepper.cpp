#include "train/stepper.h"

#include <utility>

#include "train/graph_device.h"

namespace meristem {

Stepper::Stepper(const RunConfig& config, at::Device device, const ops::Paths& paths, MakeGraphDevice make)
    : config_(config), device_(device), graphs_(uses_graph(config, device, paths)), make_(std::move(make)) {}

Stepper::Stepper(const RunConfig& config, at::Device device, const ops::Paths& paths) : Stepper(config, device, paths, cuda_graph_device) {}

std::vector<StepResult> Stepper::step(LiveModel& live, const NextBatch& next, const StepInput& input, SpikeDetector& spikes) {
  if (!graphs_) return {train_step(live, config_.optimizer, device_, config_.data.sources.size(), next, input, spikes)};
  if (!graph_step_) graph_step_ = std::make_unique<GraphStep>(live, config_, make_(device_));
  graph_step_->queue(next, input);
  return {};
}

std::vector<StepResult> Stepper::finish(SpikeDetector& spikes) {
  return graph_step_ ? graph_step_->finish(spikes) : std::vector<StepResult>{};
}

}  // namespace meristem
