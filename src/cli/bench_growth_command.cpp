// What growing saves in seconds, against what `plan` promises in FLOPs: the models of all stages live side by side in one process and
// take turns step by step, so that a machine that slows down slows all of them.
#include <algorithm>
#include <chrono>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "cli/commands.h"
#include "cli/random_batch.h"
#include "config/load.h"
#include "models/costs.h"
#include "ops/device.h"
#include "train/step.h"

namespace meristem::cli {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t rounds = 9;
};

struct Lane {  // one stage's model
  StageCost cost;
  std::unique_ptr<LiveModel> live;
  SpikeDetector spikes;
  std::vector<double> step_seconds, growth_seconds;  // growth_seconds: of the growth that leads to this stage
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void finish_device(at::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize();
}

template <class Work>
double seconds_of(at::Device device, Work&& work) {
  finish_device(device);
  const auto begin = std::chrono::steady_clock::now();
  work();
  finish_device(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<Lane> make_lanes(const RunConfig& config, const ModelRegistry& registry, at::Device device) {
  std::vector<Lane> lanes;
  for (const StageCost& cost : stage_costs(config, registry)) {
    lanes.push_back({cost, std::make_unique<LiveModel>(config, registry, device, cost.stage.blocks, true), {}, {}, {}});
  }
  return lanes;
}

void one_round(std::vector<Lane>& lanes, const RunConfig& config, at::Device device, std::int64_t number, bool timed) {
  const std::int64_t sequences = config.batch.tokens / config.data.sequence_length;
  const std::int64_t micro = std::min(config.batch.micro_sequences, sequences);
  const HostBatch batch = random_batch(micro, config.data.sequence_length, config.model.vocab_size);
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    Lane& lane = lanes[(i + static_cast<std::size_t>(number)) % lanes.size()];
    const double seconds = seconds_of(device, [&] {
      train_step(*lane.live, config.optimizer, device, 1, [&](std::int64_t) { return batch; },
                 {number, lane.cost.stage.plan, config.optimizer.lr, sequences / micro, micro}, lane.spikes);
    });
    if (timed) lane.step_seconds.push_back(seconds);
  }
  for (std::size_t i = 1; timed && i < lanes.size(); ++i) {
    lanes[i].growth_seconds.push_back(seconds_of(device, [&] {
      const auto grown = lanes[i - 1].live->grown(lanes[i].cost.stage.source_of, config.growth->moments == "zero");
      TORCH_CHECK(grown->blocks() == lanes[i].cost.stage.blocks);
    }));
  }
}

nlohmann::ordered_json report(const std::vector<Lane>& lanes, const RunConfig& config, const ModelRegistry& registry) {
  nlohmann::ordered_json json;
  json["stages"] = nlohmann::ordered_json::array();
  const double full_step = median(lanes.back().step_seconds), steps = static_cast<double>(total_steps(config));
  double seconds = 0;
  for (const Lane& lane : lanes) {
    const double updates = static_cast<double>(lane.cost.stage.until_step - lane.cost.stage.from_step);
    const double step = median(lane.step_seconds), growth = median(lane.growth_seconds);
    seconds += updates * step + growth;
    json["stages"].push_back({{"blocks", lane.cost.stage.blocks}, {"updates", updates}, {"step_seconds", step}, {"growth_seconds", growth},
                              {"growth_in_steps", growth / step}});
  }
  const double tokens = steps * static_cast<double>(config.batch.tokens);
  const double predicted = 1 - total_flops(config, registry) / (lanes.back().cost.flops.train * tokens), realised = 1 - seconds / (steps * full_step);
  json["predicted_saving"] = predicted;
  json["realised_saving"] = realised;
  json["ratio"] = realised / predicted;
  return json;
}

ExitCode measure(const Arguments& a) {
  const RunConfig config = load_config(a.config, a.overrides);
  if (!config.growth) throw InputError(a.config + ": growth: there is none to measure");
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  std::vector<Lane> lanes = make_lanes(config, registry, device);
  for (std::int64_t n = 1; n <= a.rounds + 2; ++n) one_round(lanes, config, device, n, n > 2);
  fmt::print("{}\n", report(lanes, config, registry).dump(2));
  return ExitCode::kOk;
}

}  // namespace

void add_bench_growth(CLI::App& app, Action& run) {
  auto a = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("bench-growth", "Measure a growing run's step at each depth, alternating, and its growth events")->group("");
  command->add_option("config", a->config, "RUN.yaml")->required();
  command->add_option("overrides", a->overrides, "key=value: replaces values of the config");
  command->add_option("--rounds", a->rounds, "")->check(CLI::Range(1, 1000));
  command->callback([a, &run] { run = [a] { return measure(*a); }; });
}

}  // namespace meristem::cli
