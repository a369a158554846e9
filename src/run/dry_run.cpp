#include "run/run.h"

#include <chrono>
#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/sysinfo.h>
#include <torch/torch.h>

#include "core/text.h"
#include "metrics/progress.h"
#include "metrics/throughput.h"
#include "models/costs.h"
#include "ops/paths.h"
#include "run/start.h"
#include "run/telemetry.h"
#include "step/update.h"

namespace meristem {
namespace {

double total_bytes(const StageCost& cost) { return cost.memory.total(); }

std::tm local_time(std::time_t time) {
  std::tm parts{};
  ::localtime_r(&time, &parts);
  return parts;
}

double machine_bytes() {
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

void print_stages(const std::vector<StageCost>& costs, double seconds_per_flop, const RunConfig& config) {
  auto at = std::chrono::system_clock::now();
  for (const StageCost& cost : costs) {
    const double steps = static_cast<double>(cost.stage.until_step - cost.stage.from_step);
    const double seconds = steps * cost.flops.train * static_cast<double>(config.batch.tokens) * seconds_per_flop;
    fmt::print("  updates {} - {}: {} blocks, plan {}, peak memory {}{}", cost.stage.from_step + 1, cost.stage.until_step,
               cost.stage.blocks, cost.stage.plan.print(), bytes_text(total_bytes(cost)),
               cost.memory.growth_peak > 0 ? " (growth: " + bytes_text(cost.memory.growth_peak) + ")" : "");
    if (seconds_per_flop > 0) {
      at += std::chrono::duration_cast<std::chrono::system_clock::duration>(std::chrono::duration<double>(seconds));
      fmt::print(", {}, until about {:%Y-%m-%d %H:%M}", duration_text(seconds), local_time(std::chrono::system_clock::to_time_t(at)));
    }
    fmt::print("\n");
  }
}

}  // namespace

void dry_run(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry) {
  const at::Device device = pick_device();
  uses_graph(config, device, model_build(config, timeline, device).paths);  // kernels: refused here as it would be in the run
  const auto costs = stage_costs(config, timeline, registry);
  fmt::print("{}: {} updates of {} tokens\n", config.run.name, timeline.updates(), grouped_digits(config.batch.tokens));
  const auto loader = make_loader(config, timeline);
  for (const PackingReport& packed : loader->packing()) {
    const std::int64_t sequences = config.batch.tokens / config.data.sequence_length;
    for (const std::string& note : packing_notes(packed, config.data.sequence_length, sequences)) fmt::print("{}\n", note);
  }
  double seconds_per_flop = 0;
  const StageCost& full = costs.back();
  if (total_bytes(full) < 0.8 * machine_bytes() || pick_device().is_cuda()) {
    double loss = 0;
    const double seconds = timed_update(*loader, config, timeline, registry, full, loss);
    seconds_per_flop = seconds / (full.flops.train * static_cast<double>(config.batch.tokens));
    fmt::print("one step at full depth: {:.2f} s, loss {:.4f}, peak memory {}\n", seconds, loss,
               bytes_text(static_cast<double>(process_memory().peak_bytes)));
  } else {
    fmt::print("full depth needs {}, this machine has {}: shapes were checked without storage, no step was run\n",
               bytes_text(total_bytes(full)), bytes_text(machine_bytes()));
  }
  print_stages(costs, seconds_per_flop, config);
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    const PhaseConfig& phase = config.phases[i];
    fmt::print("  phase {} after update {}:", phase.name, timeline.phase_starts()[i]);
    for (const auto& [source, weight] : phase.mixture) fmt::print(" {} {}", source, number_text(weight));
    fmt::print("{}\n", phase.depth_plan.empty() ? "" : ", plan " + phase.depth_plan.text);
  }
  fmt::print("nothing was written\n");
}

}  // namespace meristem
