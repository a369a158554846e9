// One optimizer update: micro-batches forward and backward, one division by the number of targets, clip, step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/batch.h"
#include "train/live_model.h"
#include "train/spikes.h"

namespace meristem {

struct StepInput {
  std::int64_t number = 0;  // n, from 1
  DepthPlan plan;
  double learning_rate = 0;
  std::int64_t micro_batches = 1;
  std::int64_t micro_sequences = 1;
  bool record_stream = false;  // measure the residual stream on the first micro-batch
};

struct StepResult {
  double loss = 0;       // nats per target
  double grad_norm = 0;  // of the mean loss, before clipping
  std::int64_t targets = 0;
  bool spike = false, skipped = false;
  std::vector<double> loss_by_source;  // nats per target, by source index; NaN where the step had none of it
  std::vector<double> stream_rms;      // RMS of the residual stream after the embedding and after each call; empty unless recorded
  std::vector<std::int64_t> targets_by_source;
};

using NextBatch = std::function<HostBatch(std::int64_t sequences)>;

// NonFiniteError where one of the two is not finite; it says that the update did not happen.
void refuse_non_finite(std::int64_t step, double loss, double grad_norm);

// Throws NonFiniteError, before any weight changes, where the loss or the gradient is not finite.
StepResult train_step(LiveModel& live, const OptimizerConfig& config, at::Device device, std::size_t num_sources, const NextBatch& next,
                      const StepInput& input, SpikeDetector& spikes);

}  // namespace meristem
