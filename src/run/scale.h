// A run on many ranks before there are any: what each would do and hold, and how long it would take. `plan --gpus` and the dry run ask.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "config/timeline.h"
#include "distributed/forecast.h"
#include "models/costs.h"

namespace meristem {

inline constexpr std::int64_t kMostRanks = 1 << 14;  // that are laid out on paper

// The batch of one rank as a config of its own: its share of batch.tokens, and its micro-batches. InputError as micro_batches_of.
RunConfig config_of_rank(const RunConfig& config, std::int64_t ranks);
bool divides_batch(const RunConfig& config, std::int64_t ranks);

// Of each stage, on the rank that has most. With a sharded optimizer its moments stand with their owner alone.
std::vector<MemoryEstimate> memory_of_rank(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry,
                                           std::int64_t ranks);

// GPUs whose memory and links are known; metrics/throughput.h knows their peaks by these names. cpu: ranks without a GPU, over Gloo.
enum class Gpu { kH100, kH200, kA100, kCpu };
constexpr auto words_of(Gpu) { return std::array{"h100", "h200", "a100", "cpu"}; }

// What a GPU reaches of its peak where nobody has measured it, and of its memory's rate.
inline constexpr double kAssumedUse = 0.40, kMemoryUse = 0.80;

struct Cluster {
  Gpu gpu = Gpu::kH100;
  double memory_bytes = 0, memory_rate = 0;  // of a GPU; 0 for CPUs
  double peak_flops = 0;                     // bf16
  double measured_flops = 0;                 // model FLOPs a second of one rank, its updates included; 0: nobody measured
  double dollars_per_hour = 0;               // of a GPU
  Links links;
};
// From the makers' data sheets and measurements that docs/forecast.md names. The rates of a CPU's links are left 0, and the network's.
Cluster cluster_of(Gpu gpu);

struct RunForecast {
  std::int64_t ranks = 1, sequences = 0, micro_sequences = 0;  // of one rank
  std::int64_t buckets = 0;                                    // at full depth
  UpdateForecast update;                                       // at full depth, under model.depth_plan
  std::vector<UpdateForecast> spans;                           // of each span of the timeline; drawn repeats at their mean
  MemoryEstimate memory;                                       // of a rank at the stage that needs most
  double hours = 0;                                            // of all updates
  double efficiency = 1;                                       // GPU-hours of one rank / GPU-hours of all
  double gpu_hours() const { return hours * static_cast<double>(ranks); }
};

class RunScale {
 public:
  // What it is given outlives it.
  RunScale(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, const Cluster& cluster);
  // InputError as config_of_rank.
  RunForecast on(std::int64_t ranks);

 private:
  UpdateForecast update(const Stage& stage, std::int64_t ranks);
  UpdateForecast update(const Span& span, std::int64_t ranks);
  const UpdateRun& run_of(const Stage& stage);
  UpdateWork work_of_rank(const UpdateRun& run, std::int64_t ranks) const;
  double hours(std::int64_t ranks, std::vector<UpdateForecast>* spans);
  MemoryEstimate peak_memory(std::int64_t ranks);

  const RunConfig& config_;
  const Timeline& timeline_;
  const ModelRegistry& registry_;
  Cluster cluster_;
  Exchange exchange_;
  std::map<std::pair<std::int64_t, std::vector<std::int64_t>>, UpdateRun> runs_;  // by blocks and calls
  double hours_alone_ = 0;
};

}  // namespace meristem
