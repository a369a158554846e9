#include "run/run.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>

#include <ATen/DeviceAccelerator.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/sysinfo.h>
#include <torch/torch.h>

#include "checkpoint/publish.h"
#include "core/errors.h"
#include "core/text.h"
#include "metrics/progress.h"
#include "metrics/throughput.h"
#include "models/costs.h"
#include "ops/paths.h"
#include "run/checkpointing.h"
#include "run/scale.h"
#include "run/start.h"
#include "run/telemetry.h"
#include "step/update.h"

namespace meristem {
namespace {

std::tm local_time(std::time_t time) {
  std::tm parts{};
  ::localtime_r(&time, &parts);
  return parts;
}

// What models and batches have to fit into here.
double memory_bytes(at::Device device) {
  if (device.is_cuda()) return static_cast<double>(at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(device.index()).second);
  struct sysinfo info {};
  return ::sysinfo(&info) == 0 ? static_cast<double>(info.totalram) * info.mem_unit : 0;
}

// Seconds of one update at the given stage, run as the run would run it: the last of two, or of three where graphs are captured in the
// second.
double timed_update(Loader& loader, const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, const StageCost& cost,
                    double& loss) {
  const at::Device device = pick_device();
  loader.check_supply(timeline.updates());
  LiveModel live(config, timeline, registry, device, cost.stage.blocks, true);
  // The update is timed at full depth; a run that grows has the checkpoint's weights at the depth it begins with only.
  if (config.initial) {
    const Initial initial = open_initial(config, timeline);
    if (!config.growth) load_initial(initial, config, live);
  }
  SpikeDetector spikes;
  Updater updater(live, config, spikes, graph_device_of(config, device, live.paths()));
  const MicroBatches micro = micro_batches_of(config, 1);
  double seconds = 0;
  for (std::int64_t n = 1; n <= (updater.uses_graphs() ? 3 : 2); ++n) {
    const double begin = seconds_now();
    // Learning rate 0: the loss shown is that of the starting weights.
    loss = updater.run([&](std::int64_t rows) { return loader.next(rows); }, {n, cost.stage.plan, 0.0, micro.count, micro.sequences}).loss;
    seconds = seconds_now() - begin;
  }
  return seconds;
}

void print_stages(const std::vector<StageCost>& costs, const std::vector<MemoryEstimate>& memory, double seconds_per_flop,
                  const RunConfig& config) {
  auto at = std::chrono::system_clock::now();
  for (std::size_t i = 0; i < costs.size(); ++i) {
    const StageCost& cost = costs[i];
    const double steps = static_cast<double>(cost.stage.until_step - cost.stage.from_step);
    const double seconds = steps * cost.flops.train * static_cast<double>(config.batch.tokens) * seconds_per_flop;
    fmt::print("  updates {} - {}: {} blocks, plan {}, peak memory {}{}", cost.stage.from_step + 1, cost.stage.until_step,
               cost.stage.blocks, config.model.plan_text(cost.stage.plan), bytes_text(memory[i].total()),
               memory[i].growth_peak > 0 ? " (growth: " + bytes_text(memory[i].growth_peak) + ")" : "");
    if (seconds_per_flop > 0) {
      at += std::chrono::duration_cast<std::chrono::system_clock::duration>(std::chrono::duration<double>(seconds));
      fmt::print(", {}, until about {:%Y-%m-%d %H:%M}", duration_text(seconds), local_time(std::chrono::system_clock::to_time_t(at)));
    }
    fmt::print("\n");
  }
}

// What one of several ranks holds. InputError where that does not fit into the GPU that is here; a CPU may stand in for GPUs elsewhere.
void print_rank(const RunConfig& rank, const std::vector<MemoryEstimate>& memory, std::int64_t ranks, at::Device device) {
  const auto most = std::max_element(memory.begin(), memory.end(), [](const auto& a, const auto& b) { return a.total() < b.total(); });
  const double here = memory_bytes(device);
  if (device.is_cuda() && most->total() > here) {
    throw InputError(
        fmt::format("batch.micro_sequences: a rank needs {} for {} sequences at a time, this GPU has {}; fewer need less, and "
                    "so do more ranks and memory.activation_checkpointing",
                    bytes_text(most->total()), rank.batch.micro_sequences, bytes_text(here)));
  }
  fmt::print("one of {} ranks: {} sequences an update, {} at a time\n", ranks, rank.batch.tokens / rank.data.sequence_length,
             rank.batch.micro_sequences);
  fmt::print("  memory: {}: weights {}, optimizer {}, gradients {}, activations {}\n", bytes_text(most->total()), bytes_text(most->weights),
             bytes_text(most->optimizer), bytes_text(most->gradients), bytes_text(most->activations));
}

// InputError where the disk that the run folder is on has no room for the checkpoints.
void print_checkpoints(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, const StageCost& full,
                       std::int64_t ranks) {
  const double weights = 4 * static_cast<double>(full.parameters.total), optimizer = full.memory.optimizer;
  const std::filesystem::path folder = std::filesystem::path(config.run.out) / config.run.name;
  const auto need = static_cast<double>(checkpoint_disk_need(config, timeline, registry, 0)),
             free = static_cast<double>(free_disk_bytes(folder));
  if (need > free) {
    throw InputError(
        fmt::format("run.out: {} has {} free, the run's checkpoints need {}; fewer are kept with checkpoint.keep_last and "
                    "checkpoint.keep_every",
                    folder.string(), bytes_text(free), bytes_text(need)));
  }
  const std::int64_t parts = config.parallel.shard_optimizer ? ranks : 1;
  fmt::print("a checkpoint: {}: weights {}, optimizer {} in {} part{}{}; all that are kept: {} ({} free)\n",
             bytes_text(weights + optimizer), bytes_text(weights), bytes_text(optimizer), parts, parts == 1 ? "" : "s",
             parts == 1 ? "" : " of about " + bytes_text(optimizer / static_cast<double>(parts)), bytes_text(need), bytes_text(free));
}

}  // namespace

void dry_run(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, std::int64_t ranks) {
  const RunConfig rank = config_of_rank(config, ranks);
  const at::Device device = pick_device();
  uses_graph(config, device, model_build(config, timeline, device).paths);  // kernels: refused here as it would be in the run
  const auto costs = stage_costs(rank, timeline, registry);                 // of a process that is alone, as it is here
  const auto memory = memory_of_rank(config, timeline, registry, ranks);
  const StageCost& full = costs.back();
  fmt::print("{}: {} updates of {} tokens\n", config.run.name, timeline.updates(), grouped_digits(config.batch.tokens));
  if (ranks > 1) {
    print_rank(rank, memory, ranks, device);
    print_checkpoints(config, timeline, registry, full, ranks);
  }
  const auto loader = make_loader(config, timeline);
  for (const PackingReport& packed : loader->packing()) {
    const std::int64_t sequences = config.batch.tokens / config.data.sequence_length;
    for (const std::string& note : packing_notes(packed, config.data.sequence_length, sequences)) fmt::print("{}\n", note);
  }
  double seconds_per_flop = 0;
  const double here = memory_bytes(device);
  if (full.memory.total() < 0.8 * here || (device.is_cuda() && ranks == 1)) {
    double loss = 0;
    const double seconds = timed_update(*loader, rank, timeline, registry, full, loss);
    seconds_per_flop = seconds / (full.flops.train * static_cast<double>(rank.batch.tokens));
    fmt::print("one step at full depth{}: {:.2f} s, loss {:.4f}, peak memory {}\n", ranks > 1 ? ", a rank's share, alone" : "", seconds,
               loss, bytes_text(static_cast<double>(process_memory().peak_bytes)));
  } else {
    fmt::print("full depth needs {}, this machine has {}: shapes were checked without storage, no step was run\n",
               bytes_text(full.memory.total()), bytes_text(here));
  }
  print_stages(costs, memory, seconds_per_flop, rank);
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    const PhaseConfig& phase = config.phases[i];
    fmt::print("  phase {} after update {}:", phase.name, timeline.phase_starts()[i]);
    for (const auto& [source, weight] : phase.mixture) fmt::print(" {} {}", source, number_text(weight));
    fmt::print("{}\n", phase.depth_plan.empty() ? "" : ", plan " + phase.depth_plan.text);
  }
  fmt::print("nothing was written\n");
}

}  // namespace meristem
