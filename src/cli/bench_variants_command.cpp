// The step of each variant of a file, taking turns in one process, beside its FLOPs: what one part of a model costs next to another.
#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/bench_lanes.h"
#include "cli/commands.h"
#include "config/load.h"
#include "metrics/throughput.h"
#include "ops/paths.h"

namespace meristem::cli {
namespace {

struct VariantArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t rounds = 9;
};

// bytes_before: of the process before the first model. The peak is the process's, so it tells of a model only where it is alone.
nlohmann::ordered_json variants_report(const std::vector<BenchLane>& lanes, std::int64_t bytes_before) {
  nlohmann::ordered_json json;
  for (const BenchLane& lane : lanes) {
    const FlopCount& flops = lane.cost.flops;
    json[lane.config.run.name] = {{"step_seconds", median(lane.step_seconds)},
                                  {"fastest_seconds", *std::min_element(lane.step_seconds.begin(), lane.step_seconds.end())},
                                  {"calls", lane.cost.stage.plan.num_calls()},
                                  {"blocks", lane.cost.stage.blocks},
                                  {"train_flops_per_token", flops.train},
                                  {"head_flops_per_token", 3 * flops.head},
                                  {"bytes_before", bytes_before},
                                  {"peak_bytes", process_memory().peak_bytes}};
  }
  return json;
}

ExitCode measure_variants(const VariantArguments& a) {
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  const std::int64_t bytes_before = process_memory().resident_bytes;
  std::vector<BenchLane> lanes;
  for (const RunConfig& config : load_variants(a.config, a.overrides).runs) {
    const Timeline timeline(config);
    lanes.push_back(make_bench_lane(config, timeline, registry, device, stage_costs(config, timeline, registry).back()));
  }
  forget_peak_memory();  // of drawing the weights
  for (std::int64_t n = 1; n <= a.rounds + 2; ++n) bench_round(lanes, device, n, n > 2);
  fmt::print("{}\n", variants_report(lanes, bytes_before).dump(2));
  return ExitCode::kOk;
}

}  // namespace

void add_bench_variants(CLI::App& app, Action& run) {
  auto a = std::make_shared<VariantArguments>();
  CLI::App* command =
      app.add_subcommand("bench-variants", "Measure the step of each variant of a file, alternating, beside its FLOPs")->group("");
  command->add_option("config", a->config, "RUN.yaml with variants")->required();
  command->add_option("overrides", a->overrides, "key=value: replaces values of the config");
  command->add_option("--rounds", a->rounds, "")->check(CLI::Range(1, 1000));
  command->callback([a, &run] { run = [a] { return measure_variants(*a); }; });
}

}  // namespace meristem::cli
