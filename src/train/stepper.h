// One optimizer update after another, plainly or by captured graphs (kernels.graph).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "train/graph_step.h"

namespace meristem {

using MakeGraphDevice = std::function<GraphDevice(at::Device)>;

class Stepper {
 public:
  // make: what graphs need of the device, where they are used. InputError where kernels.graph: on cannot be.
  Stepper(const RunConfig& config, at::Device device, const ops::Paths& paths, MakeGraphDevice make);
  Stepper(const RunConfig& config, at::Device device, const ops::Paths& paths);

  bool uses_graphs() const { return graphs_; }

  // One update of `live`. Plainly: its result. By graphs: queued, and nothing known yet.
  std::vector<StepResult> step(LiveModel& live, const NextBatch& next, const StepInput& input, SpikeDetector& spikes);
  // Waits for what is queued; its results, oldest first.
  std::vector<StepResult> finish(SpikeDetector& spikes);
  // Before `live` is replaced by a growth: its graphs end, the next model gets graphs of its own. finish() comes first.
  void forget() { graph_step_.reset(); }

 private:
  RunConfig config_;
  at::Device device_;
  bool graphs_;
  MakeGraphDevice make_;
  std::unique_ptr<GraphStep> graph_step_;
};

}  // namespace meristem
