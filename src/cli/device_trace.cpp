#include "cli/device_trace.h"

#include <set>
#include <vector>

#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "core/errors.h"
#include "metrics/throughput.h"

namespace meristem::cli {
namespace {

// Not waits and events, which take no time of the GPU, nor annotations, which would span the gaps between kernels.
bool occupies_the_gpu(std::uint8_t activity) {
  using libkineto::ActivityType;
  const auto type = static_cast<ActivityType>(activity);
  return type == ActivityType::CONCURRENT_KERNEL || type == ActivityType::GPU_MEMCPY || type == ActivityType::GPU_MEMSET;
}

}  // namespace

double gpu_idle_share(const std::function<void()>& work) {
  namespace profiler = torch::profiler::impl;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities{profiler::ActivityType::CUDA};
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
  work();
  const auto trace = torch::autograd::profiler::disableProfiler();
  std::vector<BusyInterval> busy;
  for (const auto& event : trace->events()) {
    if (occupies_the_gpu(event.activityType()))
      busy.push_back({static_cast<std::int64_t>(event.startNs()), static_cast<std::int64_t>(event.endNs())});
  }
  if (busy.empty()) throw InputError("bench-step: idle: the profiler saw nothing run on a GPU");
  return idle_share(std::move(busy));
}

}  // namespace meristem::cli
