// An optimizer update that never waits for the device: each micro-batch's forward and backward pass is one captured graph, and norm, clip
// factor and update follow as launches that take device scalars. Losses and norms stay on the device until they are asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train/graph_cache.h"
#include "train/input_pipeline.h"
#include "train/step.h"
#include "train/step_losses.h"

namespace meristem {

// What a GPU does and a test imitates.
struct GraphDevice {
  at::Device device = at::kCPU;
  Capture capture;
  std::unique_ptr<SlotCopies> copies;
};

// Of a model as it is: a growth needs another one, with graphs of its own.
class GraphStep {
 public:
  GraphStep(LiveModel& live, const RunConfig& config, GraphDevice device);

  // Queues one update. What train_step refuses, a loss or gradient that is not finite, stops this update and every later one on the device.
  void queue(const NextBatch& next, const StepInput& input);
  // Waits for the device. The updates queued since the last call, oldest first. NonFiniteError for the first that was stopped.
  std::vector<StepResult> finish(SpikeDetector& spikes);

 private:
  struct Queued {
    std::int64_t number;
    DepthPlan plan;
    bool records_stream;
    std::int64_t targets;
    std::vector<std::int64_t> targets_by_source;
    at::Tensor numbers;  // [2 + sources] float64: loss, gradient norm, loss sums by source
  };

  void run_micro_batch(const StaticInputs& inputs, const DepthPlan& plan, bool record);
  void forward_backward(const StaticInputs& inputs, const DepthPlan& plan, bool record);
  void update(const StepInput& input);
  void begin_loads(const DepthPlan& plan);
  void end_loads(const DepthPlan& plan);
  StepResult result_of(const Queued& update, const double* numbers, SpikeDetector& spikes) const;

  LiveModel& live_;
  OptimizerConfig config_;
  std::int64_t experts_;  // of a block; 0: none
  at::Device device_;
  InputPipeline inputs_;
  GraphCache graphs_;
  StepLosses sums_;
  at::Tensor stopped_;              // [] bool: an update was not finite
  at::Tensor stream_rms_;           // [calls + 1] of the step that last recorded it
  std::vector<at::Tensor> counts_;  // of the step under way, [experts] for each place in the plan
  std::vector<Queued> queued_;
};

// Why a run's steps cannot be captured, or nothing.
std::string why_no_graph(const RunConfig& config, at::Device device, const ops::Paths& paths);

// kernels.graph of a config on a device. InputError where it is `on` and cannot be; `auto` needs a GPU's proof.
bool uses_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels = {});

}  // namespace meristem
