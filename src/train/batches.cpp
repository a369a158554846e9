#include "train/batches.h"

#include <algorithm>

#include <torch/torch.h>

namespace meristem {
namespace {

at::Tensor ints(const std::vector<std::int32_t>& values, at::Device device) {
  // A copy: the host batch may be gone before the device has read it.
  const at::Tensor view =
      torch::from_blob(const_cast<std::int32_t*>(values.data()), {static_cast<std::int64_t>(values.size())}, torch::kInt);
  return view.clone().to(device, /*non_blocking=*/true);
}

}  // namespace

std::unique_ptr<Loader> make_loader(const RunConfig& config) {
  std::vector<PhaseConfig> phases = config.phases;
  for (PhaseConfig& phase : phases) phase.from_step = {static_cast<double>(steps_of(phase.from_step, config)), false};
  return std::make_unique<Loader>(config.data, phases, config.batch.tokens / config.data.sequence_length, config.model.vocab_size,
                                  config.run.seed);
}

Batch to_device(const HostBatch& host, at::Device device) {
  Batch batch{ints(host.inputs, device), ints(host.targets, device), ints(host.positions, device), {}};
  for (std::size_t i = 1; i < host.boundaries.size(); ++i) batch.segments.lengths.push_back(host.boundaries[i] - host.boundaries[i - 1]);
  return batch;
}

std::int64_t count_targets(const HostBatch& host) {
  return std::count_if(host.targets.begin(), host.targets.end(), [](std::int32_t target) { return target >= 0; });
}

}  // namespace meristem
