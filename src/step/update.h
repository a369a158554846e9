// One update: forward and backward of its micro-batches, one division by the targets of all, clip, optimizer. The same code whether the
// micro-batches run plainly or as captured graphs, and whether the host reads results at once or many updates later.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "distributed/replica_sync.h"
#include "step/graphs.h"
#include "step/live_model.h"
#include "step/spikes.h"

namespace meristem {

struct UpdateInput {
  std::int64_t number = 0;  // n, from 1
  DepthPlan plan;
  double learning_rate = 0;
  std::int64_t micro_batches = 1;
  std::int64_t micro_sequences = 1;  // of each; how many threads share them by strands follows from it (strands_of)
  bool record_stream = false;        // measure the residual stream on the first micro-batch
  bool stop_asked = false;           // this rank was asked to stop: all of them hear of it with the results
};

struct UpdateResult {
  double loss = 0;       // nats per target
  double grad_norm = 0;  // of the mean loss, before clipping
  std::int64_t targets = 0;
  std::int64_t real_tokens = 0;  // inputs that are no padding, of all ranks
  bool spike = false, skipped = false;
  bool stop_asked = false;              // some rank was, before this update
  std::vector<double> seconds_by_rank;  // until each rank waited for the others; host time; empty for one rank
  double seconds_waited = 0;            // of this rank for the others, in this update
  std::vector<double> loss_by_source;   // nats per target, by source index; NaN where the update had none of it
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

// Of a model as it is: a growth makes another one, with an Updater of its own.
class Updater {
 public:
  // `graphs`: micro-batches run as captured graphs on this device; none: plainly. With several ranks the last one of an update runs
  // plainly, since gradients travel while it does. `live`, `config` and `spikes` outlive it.
  Updater(LiveModel& live, const RunConfig& config, SpikeDetector& spikes, std::optional<GraphDevice> graphs = {});

  ~Updater();
  Updater(const Updater&) = delete;
  Updater& operator=(const Updater&) = delete;

  bool uses_graphs() const { return graphs_ != nullptr; }
  // How many strands (ops/strands.h) share a micro-batch of so many sequences. InputError where parallel.threads asks for what cannot be.
  std::int64_t strands_for(std::int64_t micro_sequences) const;

  // Queues one update; nothing is read back. One whose loss or gradient norm is not finite stops itself and every later one on the device,
  // and a spike that is to be skipped stops itself: then no weight, moment, step count or expert bias moves. With optimizer.skip_spikes the
  // results of earlier updates must have been read. What `next` throws leaves all of these as they were.
  void queue(const NextBatch& next, const UpdateInput& input);
  // Waits for the device. The updates queued since the last call, oldest first. NonFiniteError for the first that was stopped.
  std::vector<UpdateResult> finish();
  // queue() and finish(), for those who know of no earlier update.
  UpdateResult run(const NextBatch& next, const UpdateInput& input);

  // Waits until the weights of all ranks are here: before anybody but an update reads them.
  void await_weights();
  // Compares the weights of all ranks. SystemError that names the first tensor in which two ranks differ.
  void check_replicas();

 private:
  struct Queued {
    UpdateInput input;
    at::Tensor numbers;  // float64: loss, gradient norm, whether it counted, the sums; with several ranks what is of them
    double seconds_waited = 0;
    std::int64_t real_tokens = 0;  // of this rank
  };
  // What an update adds up to, over its micro-batches and ranks.
  struct Reduced {
    at::Tensor squares;   // [] float64, of the summed gradients; undefined at one rank
    at::Tensor loads;     // as Model::expert_counts
    at::Tensor of_ranks;  // [2 + ranks] float64: stop requests, real tokens, seconds by rank; empty at one rank
  };

  void micro_batch(const HostBatch& host, const DepthPlan& plan, bool record, bool last);
  void forward_backward(const std::vector<DeviceBatch>& shares, const DepthPlan& plan, bool record);
  Reduced reduced(bool stop_asked, std::int64_t real_tokens, double seconds);
  at::Tensor own_norm() const;
  at::Tensor counted(const at::Tensor& loss, const at::Tensor& norm);
  at::Tensor gradient_scale(const at::Tensor& norm, const at::Tensor& targets, const at::Tensor& counts) const;
  UpdateResult result_of(const Queued& update, const double* numbers);

  LiveModel& live_;
  const RunConfig& config_;
  SpikeDetector& spikes_;
  at::Device device_;
  std::unique_ptr<ReplicaSync> replicas_;  // with several ranks alone
  std::unique_ptr<InputPipeline> inputs_;  // with graphs alone
  std::unique_ptr<GraphCache> graphs_;
  UpdateSums sums_;
  at::Tensor stopped_;     // [] bool: an update was not finite
  at::Tensor stream_rms_;  // [calls + 1] of the update that last recorded it
  std::vector<Queued> queued_;
};

}  // namespace meristem
