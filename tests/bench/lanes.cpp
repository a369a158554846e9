// Models that stand side by side in one process and take turns, update by update, so that a machine that slows down slows all of them:
// those of all stages of a growing run (what growing saves in seconds, against what `plan` promises in FLOPs), or the variants of a file
// (what one part of a model costs next to another).
#include <algorithm>
#include <chrono>
#include <memory>

#include <fmt/format.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "bench/commands.h"
#include "config/load.h"
#include "core/counter_rng.h"
#include "core/errors.h"
#include "metrics/throughput.h"
#include "models/costs.h"
#include "ops/paths.h"
#include "step/live_model.h"
#include "step/update.h"

namespace meristem::bench {

HostBatch random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = length;
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  const auto key = stream_key(0, "bench");
  const auto token = [&](std::int64_t i) {
    return static_cast<std::int32_t>(random_u64(key, static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(vocab));
  };
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    batch.inputs.push_back(token(i));
    batch.targets.push_back(token(i + 1));
    batch.positions.push_back(static_cast<std::int32_t>(i % length));
    if (i % length == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * length));
  return batch;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void finish_device(at::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize();
}

namespace {

// A model among others that stand side by side in one process.
struct Lane {
  RunConfig config;
  StageCost cost;
  std::unique_ptr<LiveModel> live;
  SpikeDetector spikes;
  std::vector<double> step_seconds;
};

struct LaneArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t rounds = 9;
};

template <class Work>
double seconds_of(at::Device device, Work&& work) {
  finish_device(device);
  const auto begin = std::chrono::steady_clock::now();
  work();
  finish_device(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A freshly initialised model of the stage.
Lane make_lane(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device, const StageCost& cost) {
  return {config, cost, std::make_unique<LiveModel>(config, timeline, registry, device, cost.stage.blocks, true), {}, {}};
}

// One update of every lane on random tokens, whose turn is first depends on the round's number (from 1). Seconds are kept where `timed`.
void alternate(std::vector<Lane>& lanes, at::Device device, std::int64_t number, bool timed) {
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    Lane& lane = lanes[(i + static_cast<std::size_t>(number)) % lanes.size()];
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

// Entry i: seconds of the growth that leads to stage i, once a round; none for the first stage.
using GrowthSeconds = std::vector<std::vector<double>>;

void grow_once(const std::vector<Lane>& lanes, at::Device device, GrowthSeconds& seconds) {
  for (std::size_t i = 1; i < lanes.size(); ++i) {
    const Stage& stage = lanes[i].cost.stage;
    seconds[i].push_back(seconds_of(device, [&] {
      const auto grown = lanes[i - 1].live->grown(stage.source_of, lanes[i].config.growth->inserted, lanes[i].config.growth->moments);
      TORCH_CHECK(grown->blocks() == stage.blocks);
    }));
  }
}

// 1 - seconds of the growing run over those of one that has all blocks from the start, by the round's own times: the median of the rounds,
// since a machine that slows down slows what stands beside each other in a round.
double realised_saving(const std::vector<Lane>& lanes, const GrowthSeconds& growths, double steps) {
  std::vector<double> savings;
  for (std::size_t round = 0; round < lanes.back().step_seconds.size(); ++round) {
    double seconds = 0;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      const Stage& stage = lanes[i].cost.stage;
      seconds += static_cast<double>(stage.until_step - stage.from_step) * lanes[i].step_seconds[round];
      if (i > 0) seconds += growths[i][round];
    }
    savings.push_back(1 - seconds / (steps * lanes.back().step_seconds[round]));
  }
  return median(savings);
}

nlohmann::ordered_json growth_report(const std::vector<Lane>& lanes, const GrowthSeconds& growths, const RunConfig& config,
                                     const Timeline& timeline, const ModelRegistry& registry) {
  nlohmann::ordered_json json;
  json["stages"] = nlohmann::ordered_json::array();
  const double steps = static_cast<double>(timeline.updates());
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    const Stage& stage = lanes[i].cost.stage;
    const double updates = static_cast<double>(stage.until_step - stage.from_step);
    const double step = median(lanes[i].step_seconds), growth = median(growths[i]);
    json["stages"].push_back({{"blocks", stage.blocks},
                              {"updates", updates},
                              {"step_seconds", step},
                              {"growth_seconds", growth},
                              {"growth_in_steps", growth / step}});
  }
  const double tokens = steps * static_cast<double>(config.batch.tokens);
  const double predicted = 1 - total_flops(config, timeline, registry) / (lanes.back().cost.flops.train * tokens),
               realised = realised_saving(lanes, growths, steps);
  json["predicted_saving"] = predicted;
  json["realised_saving"] = realised;
  json["ratio"] = realised / predicted;
  return json;
}

int measure_growth(const LaneArguments& a) {
  const RunConfig config = load_config(a.config, a.overrides);
  if (!config.growth) throw InputError(a.config + ": growth: there is none to measure");
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  std::vector<Lane> lanes;
  const Timeline timeline(config);
  for (const StageCost& cost : stage_costs(config, timeline, registry))
    lanes.push_back(make_lane(config, timeline, registry, device, cost));
  GrowthSeconds growths(lanes.size());
  for (std::int64_t n = 1; n <= a.rounds + 2; ++n) {
    alternate(lanes, device, n, n > 2);
    if (n > 2) grow_once(lanes, device, growths);
  }
  fmt::print("{}\n", growth_report(lanes, growths, config, timeline, registry).dump(2));
  return 0;
}

// bytes_before: of the process before the first model. The peak is the process's, so it tells of a model only where it is alone.
nlohmann::ordered_json variants_report(const std::vector<Lane>& lanes, std::int64_t bytes_before) {
  nlohmann::ordered_json json;
  for (const Lane& lane : lanes) {
    const FlopCount& flops = lane.cost.flops;
    json[lane.config.run.name] = {{"seconds", lane.step_seconds},  // of each round
                                  {"step_seconds", median(lane.step_seconds)},
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

int measure_variants(const LaneArguments& a) {
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  const std::int64_t bytes_before = process_memory().resident_bytes;
  std::vector<Lane> lanes;
  for (const RunConfig& config : load_variants(a.config, a.overrides).runs) {
    const Timeline timeline(config);
    lanes.push_back(make_lane(config, timeline, registry, device, stage_costs(config, timeline, registry).back()));
  }
  forget_peak_memory();  // of drawing the weights
  for (std::int64_t n = 1; n <= a.rounds + 2; ++n) alternate(lanes, device, n, n > 2);
  fmt::print("{}\n", variants_report(lanes, bytes_before).dump(2));
  return 0;
}

// The options of both commands.
void add_lanes(CLI::App& app, Action& run, const std::string& name, const std::string& about, int (*measure)(const LaneArguments&)) {
  auto a = std::make_shared<LaneArguments>();
  CLI::App* command = app.add_subcommand(name, about);
  command->add_option("config", a->config, "RUN.yaml")->required();
  command->add_option("overrides", a->overrides, "key=value: replaces values of the config");
  command->add_option("--rounds", a->rounds, "Timed rounds")->check(CLI::Range(1, 1000));
  command->callback([a, measure, &run] { run = [a, measure] { return measure(*a); }; });
}

}  // namespace

void add_growth(CLI::App& app, Action& run) {
  add_lanes(app, run, "growth", "A growing run's update at each depth, alternating, and its growth events", measure_growth);
}

void add_variants(CLI::App& app, Action& run) {
  add_lanes(app, run, "variants", "The update of each variant of a file, alternating, beside its FLOPs", measure_variants);
}

}  // namespace meristem::bench
