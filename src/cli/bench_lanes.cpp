#include "cli/bench_lanes.h"

#include <algorithm>

#include <torch/torch.h>

#include "cli/random_batch.h"
#include "step/update.h"

namespace meristem::cli {

BenchLane make_bench_lane(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device,
                          const StageCost& cost) {
  return {config, cost, std::make_unique<LiveModel>(config, timeline, registry, device, cost.stage.blocks, true), {}, {}};
}

void bench_round(std::vector<BenchLane>& lanes, at::Device device, std::int64_t number, bool timed) {
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    BenchLane& lane = lanes[(i + static_cast<std::size_t>(number)) % lanes.size()];
    const RunConfig& config = lane.config;
    const std::int64_t sequences = config.batch.tokens / config.data.sequence_length;
    const std::int64_t micro = std::min(config.batch.micro_sequences, sequences);
    const HostBatch batch = random_batch(micro, config.data.sequence_length, config.model.vocab_size);
    const double seconds = seconds_of(device, [&] {
      Updater(*lane.live, config, lane.spikes)
          .run([&](std::int64_t) { return batch; }, {number, lane.cost.stage.plan, config.optimizer.lr, sequences / micro, micro});
    });
    if (timed) lane.step_seconds.push_back(seconds);
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void finish_device(at::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize();
}

}  // namespace meristem::cli
