// One update: forward and backward of its micro-batches, one division by the targets of all, clip, optimizer. The same code whether the
// micro-batches run plainly or as captured graphs, and whether the host reads results at once or many updates later.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "step/graphs.h"
#include "step/live_model.h"
#include "step/spikes.h"

namespace meristem {

struct UpdateInput {
  std::int64_t number = 0;  // n, from 1
  DepthPlan plan;
  double learning_rate = 0;
  std::int64_t micro_batches = 1;
  std::int64_t micro_sequences = 1;
  bool record_stream = false;  // measure the residual stream on the first micro-batch
};

struct UpdateResult {
  double loss = 0;       // nats per target
  double grad_norm = 0;  // of the mean loss, before clipping
  std::int64_t targets = 0;
  bool spike = false, skipped = false;
  std::vector<double> loss_by_source;  // nats per target, by source index; NaN where the update had none of it
  std::vector<std::int64_t> targets_by_source;
  std::vector<double> stream_rms;  // RMS of the residual stream after the embedding and after each call; empty unless recorded
};

// The next rows of the global order.
using NextBatch = std::function<HostBatch(std::int64_t rows)>;

// What an update adds up over its micro-batches: one float64 vector on the device, so that ranks can add theirs in one reduction.
class UpdateSums {
 public:
  UpdateSums(std::size_t sources, at::Device device);

  void clear() { vector_.zero_(); }
  // Queues the sums of a micro-batch. losses_N: nats, 0 where targets_N is negative; source_S: int32, of each row.
  void add(const at::Tensor& losses_N, const at::Tensor& targets_N, const at::Tensor& source_S);

  const at::Tensor& vector() const { return vector_; }  // [2 + 2 sources]: loss, targets, loss by source, targets by source
  at::Tensor loss() const { return vector_.select(0, 0); }
  at::Tensor targets() const { return vector_.select(0, 1); }

 private:
  at::Tensor vector_, by_source_;  // by_source_ [2, sources]: a view of what follows the totals
};

// Adds up over ranks, in place: the flat gradients (fp32), and one vector (float64) of the UpdateSums and then the expert loads. Queued on
// the current stream.
using Reduce = std::function<void(const at::Tensor& gradients, const at::Tensor& sums)>;

// Of a model as it is: a growth makes another one, with an Updater of its own.
class Updater {
 public:
  // `graphs`: micro-batches run as captured graphs on this device; none: plainly. `reduce`: none at one rank. `live` and `spikes` outlive
  // it.
  Updater(LiveModel& live, const RunConfig& config, SpikeDetector& spikes, std::optional<GraphDevice> graphs = {}, Reduce reduce = {});

  bool uses_graphs() const { return graphs_ != nullptr; }

  // Queues one update; nothing is read back. One whose loss or gradient norm is not finite stops itself and every later one on the device,
  // and a spike that is to be skipped stops itself: then no weight, moment, step count or expert bias moves. With optimizer.skip_spikes the
  // results of earlier updates must have been read. What `next` throws leaves all of these as they were.
  void queue(const NextBatch& next, const UpdateInput& input);
  // Waits for the device. The updates queued since the last call, oldest first. NonFiniteError for the first that was stopped.
  std::vector<UpdateResult> finish();
  // queue() and finish(), for those who know of no earlier update.
  UpdateResult run(const NextBatch& next, const UpdateInput& input);

 private:
  struct Queued {
    UpdateInput input;
    at::Tensor numbers;  // [3 + 2 + 2 sources] float64: loss, gradient norm, whether it counted, and the sums
  };

  void micro_batch(const HostBatch& host, const DepthPlan& plan, bool record);
  void forward_backward(const DeviceBatch& inputs, const DepthPlan& plan, bool record);
  at::Tensor reduced(const at::Tensor& loads);
  at::Tensor counted(const at::Tensor& loss, const at::Tensor& norm);
  at::Tensor gradient_scale(const at::Tensor& norm, const at::Tensor& targets, const at::Tensor& counts) const;
  UpdateResult result_of(const Queued& update, const double* numbers);

  LiveModel& live_;
  OptimizerConfig config_;
  SpikeDetector& spikes_;
  Reduce reduce_;
  at::Device device_;
  std::unique_ptr<InputPipeline> inputs_;  // with graphs alone
  std::unique_ptr<GraphCache> graphs_;
  UpdateSums sums_;
  at::Tensor stopped_;     // [] bool: an update was not finite
  at::Tensor stream_rms_;  // [calls + 1] of the update that last recorded it
  std::vector<Queued> queued_;
};

}  // namespace meristem
