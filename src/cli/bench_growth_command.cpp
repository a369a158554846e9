// What growing saves in seconds, against what `plan` promises in FLOPs: the models of all stages take turns in one process.
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/bench_lanes.h"
#include "cli/commands.h"
#include "config/load.h"
#include "ops/paths.h"

namespace meristem::cli {
namespace {

struct GrowthArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t rounds = 9;
};

// Entry i: seconds of the growth that leads to stage i, once a round; none for the first stage.
using GrowthSeconds = std::vector<std::vector<double>>;

void grow_once(const std::vector<BenchLane>& lanes, at::Device device, GrowthSeconds& seconds) {
  for (std::size_t i = 1; i < lanes.size(); ++i) {
    const Stage& stage = lanes[i].cost.stage;
    seconds[i].push_back(seconds_of(device, [&] {
      const auto grown = lanes[i - 1].live->grown(stage.source_of, lanes[i].config.growth->moments == InsertedMoments::kZero);
      TORCH_CHECK(grown->blocks() == stage.blocks);
    }));
  }
}

nlohmann::ordered_json growth_report(const std::vector<BenchLane>& lanes, const GrowthSeconds& growths, const RunConfig& config,
                                     const Timeline& timeline, const ModelRegistry& registry) {
  nlohmann::ordered_json json;
  json["stages"] = nlohmann::ordered_json::array();
  const double full_step = median(lanes.back().step_seconds), steps = static_cast<double>(timeline.updates());
  double seconds = 0;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    const Stage& stage = lanes[i].cost.stage;
    const double updates = static_cast<double>(stage.until_step - stage.from_step);
    const double step = median(lanes[i].step_seconds), growth = median(growths[i]);
    seconds += updates * step + growth;
    json["stages"].push_back({{"blocks", stage.blocks},
                              {"updates", updates},
                              {"step_seconds", step},
                              {"growth_seconds", growth},
                              {"growth_in_steps", growth / step}});
  }
  const double tokens = steps * static_cast<double>(config.batch.tokens);
  const double predicted = 1 - total_flops(config, timeline, registry) / (lanes.back().cost.flops.train * tokens),
               realised = 1 - seconds / (steps * full_step);
  json["predicted_saving"] = predicted;
  json["realised_saving"] = realised;
  json["ratio"] = realised / predicted;
  return json;
}

ExitCode measure_growth(const GrowthArguments& a) {
  const RunConfig config = load_config(a.config, a.overrides);
  if (!config.growth) throw InputError(a.config + ": growth: there is none to measure");
  const Timeline timeline(config);
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  std::vector<BenchLane> lanes;
  for (const StageCost& cost : stage_costs(config, timeline, registry))
    lanes.push_back(make_bench_lane(config, timeline, registry, device, cost));
  GrowthSeconds growths(lanes.size());
  for (std::int64_t n = 1; n <= a.rounds + 2; ++n) {
    bench_round(lanes, device, n, n > 2);
    if (n > 2) grow_once(lanes, device, growths);
  }
  fmt::print("{}\n", growth_report(lanes, growths, config, timeline, registry).dump(2));
  return ExitCode::kOk;
}

}  // namespace

void add_bench_growth(CLI::App& app, Action& run) {
  auto a = std::make_shared<GrowthArguments>();
  CLI::App* command =
      app.add_subcommand("bench-growth", "Measure a growing run's step at each depth, alternating, and its growth events")->group("");
  command->add_option("config", a->config, "RUN.yaml")->required();
  command->add_option("overrides", a->overrides, "key=value: replaces values of the config");
  command->add_option("--rounds", a->rounds, "")->check(CLI::Range(1, 1000));
  command->callback([a, &run] { run = [a] { return measure_growth(*a); }; });
}

}  // namespace meristem::cli
