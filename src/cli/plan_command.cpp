#include <algorithm>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "config/load.h"
#include "config/timeline.h"
#include "core/text.h"
#include "models/costs.h"
#include "run/start.h"

namespace meristem::cli {
namespace {

// A stretch of the run under one plan, mixture and depth.
struct SpanCost {
  Span span;
  std::string phase, plan;
  std::int64_t blocks = 0;
  double flops_per_token_train = 0;  // under the plan as written where its repeats are drawn
};

struct RunCost {
  std::int64_t updates = 0;
  std::vector<StageCost> stages;
  std::vector<SpanCost> spans;
  double flops_total = 0;       // of the run as configured
  double flops_full_depth = 0;  // of the same steps at full depth throughout
  double growth_peak = 0;
};

RunCost cost_of(const RunConfig& config, const ModelRegistry& registry) {
  RunCost cost;
  const Timeline timeline(config);
  cost.updates = timeline.updates();
  cost.stages = stage_costs(config, timeline, registry);
  cost.flops_total = total_flops(config, timeline, registry);
  for (const Span& span : timeline.spans()) {
    const std::int64_t blocks = timeline.stages().at(span.stage).blocks;
    cost.spans.push_back({span, config.phases.at(span.phase).name, config.model.plan_text(span.plan), blocks,
                          stage_cost(config, registry, {0, 0, blocks, span.plan, {}}).flops.train});
  }
  RunConfig full = config;
  full.growth.reset();
  cost.flops_full_depth = total_flops(full, Timeline(full), registry);
  for (const StageCost& stage : cost.stages) cost.growth_peak = std::max(cost.growth_peak, stage.memory.growth_peak);
  return cost;
}

nlohmann::ordered_json to_json(const RunConfig& config, const RunCost& cost) {
  const StageCost& last = cost.stages.back();
  nlohmann::ordered_json json;
  json["parameters"] = {{"total", last.parameters.total}, {"embedding", last.parameters.embedding}, {"active", last.parameters.active}};
  json["flops_per_token"] = {{"forward", last.flops.forward},
                             {"train", last.flops.train},
                             {"by_call", last.flops.by_call},
                             {"head", last.flops.head},
                             {"attention_scores", last.flops.scores}};
  json["kv_bytes_per_token"] = last.kv_bytes_per_token;
  json["state_bytes_per_sequence"] = last.state_bytes_per_sequence;
  json["memory"] = {{"weights", last.memory.weights},         {"optimizer", last.memory.optimizer},
                    {"gradients", last.memory.gradients},     {"strand_gradients", last.memory.strand_gradients},
                    {"activations", last.memory.activations}, {"loop_gradients", last.memory.loop_gradients},
                    {"growth_peak", cost.growth_peak},        {"update", last.memory.update}};
  json["stages"] = nlohmann::ordered_json::array();
  for (const StageCost& stage : cost.stages) {
    json["stages"].push_back({{"from_step", stage.stage.from_step},
                              {"until_step", stage.stage.until_step},
                              {"blocks", stage.stage.blocks},
                              {"plan", config.model.plan_text(stage.stage.plan)},
                              {"source_of", stage.stage.source_of},
                              {"parameters", stage.parameters.total},
                              {"flops_per_token_train", stage.flops.train}});
  }
  json["segments"] = nlohmann::ordered_json::array();
  for (const SpanCost& part : cost.spans) {
    json["segments"].push_back({{"from_step", part.span.from_step},
                                {"until_step", part.span.until_step},
                                {"phase", part.phase},
                                {"blocks", part.blocks},
                                {"plan", part.plan},
                                {"flops_per_token_train", part.flops_per_token_train}});
  }
  json["flops_total"] = cost.flops_total;
  json["flops_total_full_depth"] = cost.flops_full_depth;
  json["growth_saving"] = 1 - cost.flops_total / cost.flops_full_depth;
  return json;
}

void print_spans(const RunCost& cost) {
  fmt::print("\n  {:>22}  {:>6}  {:>14}  {:>12}  plan\n", "updates", "blocks", "phase", "FLOPs/token");
  for (const SpanCost& part : cost.spans) {
    fmt::print("  {:>22}  {:>6}  {:>14}  {:>12.4g}  {}\n", fmt::format("{} - {}", part.span.from_step + 1, part.span.until_step),
               part.blocks, part.phase, part.flops_per_token_train, part.plan);
  }
}

void print_table(const RunConfig& config, const RunCost& cost) {
  const StageCost& last = cost.stages.back();
  fmt::print("{}: {} at full depth, {} blocks, plan {}\n", config.run.name, config.model.architecture, last.stage.blocks,
             config.model.plan_text(last.stage.plan));
  fmt::print("  parameters       {} ({} in the embedding)\n", grouped_digits(last.parameters.total),
             grouped_digits(last.parameters.embedding));
  fmt::print("  FLOPs per token  {:.4g} forward, {:.4g} training (causal attention counted half)\n", last.flops.forward, last.flops.train);
  fmt::print("  KV cache         {} per token\n", bytes_text(last.kv_bytes_per_token));
  if (last.state_bytes_per_sequence > 0) fmt::print("  state            {} per sequence\n", bytes_text(last.state_bytes_per_sequence));
  fmt::print("  memory           weights {}, optimizer {}, gradients {}, activations {} (micro-batch of {} x {})\n",
             bytes_text(last.memory.weights), bytes_text(last.memory.optimizer), bytes_text(last.memory.gradients),
             bytes_text(last.memory.activations), config.batch.micro_sequences, config.data.sequence_length);
  if (last.memory.strand_gradients > 0) {
    fmt::print("  strands          {}: on this CPU each of {} threads takes sequences of its own and sums their gradients\n",
               bytes_text(last.memory.strand_gradients), at::get_num_threads());
  }
  if (last.memory.kept + last.memory.update > last.memory.activations) {
    fmt::print("  update           {}: what the optimizer works in, once activations are gone\n", bytes_text(last.memory.update));
  }
  if (last.memory.loop_gradients > 0) {
    fmt::print("  loop gradients   {}: sums of blocks called more than once, beside the activations while backward is in the loop\n",
               bytes_text(last.memory.loop_gradients));
  }
  if (cost.growth_peak > 0) fmt::print("  growth peak      {}\n", bytes_text(cost.growth_peak));
  fmt::print("\n  {:>22}  {:>6}  {:>14}  {:>12}  plan\n", "updates", "blocks", "parameters", "FLOPs/token");
  for (const StageCost& stage : cost.stages) {
    fmt::print("  {:>22}  {:>6}  {:>14}  {:>12.4g}  {}\n", fmt::format("{} - {}", stage.stage.from_step + 1, stage.stage.until_step),
               stage.stage.blocks, grouped_digits(stage.parameters.total), stage.flops.train, config.model.plan_text(stage.stage.plan));
    if (!stage.stage.source_of.empty()) fmt::print("  {:>22}  copies of {}\n", "", fmt::join(stage.stage.source_of, " "));
  }
  if (cost.spans.size() > cost.stages.size()) print_spans(cost);
  if (config.model.loop.repeats.sampled) {
    fmt::print(
        "\n  repeats are drawn for each update: {} on average, at most {}; figures above are for the plan as written, memory for the "
        "most\n",
        number_text(config.model.loop.repeats.sampled->mean), config.model.loop.repeats.sampled->max);
  }
  fmt::print("\n  whole run        {:.4g} FLOPs for {} tokens", cost.flops_total, grouped_digits(cost.updates * config.batch.tokens));
  if (config.growth) fmt::print("; {:.1f} % less than at full depth throughout", 100 * (1 - cost.flops_total / cost.flops_full_depth));
  fmt::print("\n");
}

nlohmann::ordered_json to_json(const Match& match) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const MatchedBaseline& b : match.baselines) {
    list.push_back(
        {{"name", b.name},
         {"config", overrides_of(b)},
         {"parameters", {{"total", b.cost.parameters.total}, {"active", b.cost.parameters.active}}},
         {"flops_per_token", {{"forward", b.cost.flops.forward}, {"train", b.cost.flops.train}}},
         {"kv_bytes_per_token", b.cost.kv_bytes_per_token},
         {"memory",
          {{"weights", b.cost.memory.weights},
           {"optimizer", b.cost.memory.optimizer},
           {"gradients", b.cost.memory.gradients},
           {"activations", b.cost.memory.activations}}},
         {"difference_percent", {{"flops", b.flops_percent}, {"parameters", b.parameters_percent}, {"kv_bytes", b.kv_percent}}}});
  }
  return list;
}

void print_match(const Match& match) {
  fmt::print("\nbaselines of the same FLOPs per token, parameters and KV memory, counted from built models\n");
  fmt::print("  {:34}  {:>12} {:>8}  {:>14} {:>8}  {:>12} {:>7}  {:>10}\n", "", "FLOPs/token", "", "parameters", "", "KV/token", "",
             "memory");
  const auto row = [](const std::string& name, const StageCost& cost, const std::string& flops, const std::string& parameters,
                      const std::string& kv) {
    fmt::print("  {:34}  {:>12.5g} {:>8}  {:>14} {:>8}  {:>12} {:>7}  {:>10}\n", name, cost.flops.forward, flops,
               grouped_digits(cost.parameters.total), parameters, bytes_text(cost.kv_bytes_per_token), kv, bytes_text(cost.memory.total()));
  };
  row("this model", match.original, "", "", "");
  for (const MatchedBaseline& b : match.baselines) {
    const auto difference = [](double percent) { return fmt::format("{:+.2f} %", percent); };
    row(b.name, b.cost, difference(b.flops_percent), difference(b.parameters_percent), difference(b.kv_percent));
  }
  for (const MatchedBaseline& b : match.baselines) fmt::print("  {}: '{}'\n", b.name, fmt::join(overrides_of(b), "' '"));
}

}  // namespace

void add_plan(CLI::App& app, Action& run) {
  struct Arguments {
    std::string config;
    std::vector<std::string> overrides;
    PlanChoice plan;
    bool json = false, match = false;
    ForecastOptions forecast;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("plan", "Count parameters, FLOPs, cache and memory before paying for them");
  command->add_option("config", arguments->config, "RUN.yaml")->required();
  command->add_option("overrides", arguments->overrides, "key=value: replaces values of the config");
  add_plan_options(*command, arguments->plan);
  command->get_option("--plan")->description("The same as model.depth_plan=…; semicolons will do for commas (default: the config's)");
  command->get_option("--repeats")->description("The same as model.loop.repeats=…: rounds of the plan's one loop (default: the config's)");
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_flag("--match", arguments->match, "Search baselines that match a Dreamer-style model's FLOPs, parameters and KV memory");
  add_forecast_options(*command, arguments->forecast);
  command->callback([arguments, &run] {
    run = [arguments] {
      check_forecast_options(arguments->forecast);
      std::vector<std::string> overrides = arguments->overrides;
      const PlanChoice& plan = arguments->plan;
      if (!plan.text.empty()) overrides.push_back(fmt::format("model.depth_plan=\"{}\"", DepthPlan::parse(plan.text).print_loop()));
      if (plan.repeats) overrides.push_back(fmt::format("model.loop.repeats={}", *plan.repeats));
      const RunConfig config = load_config(arguments->config, overrides, {initial_model, ""});
      const RunCost cost = cost_of(config, builtin_registry());
      std::optional<Match> match;
      if (arguments->match) match = match_baselines(config, builtin_registry());
      std::optional<Forecast> forecast;
      if (arguments->forecast.gpus) forecast = forecast_of(config, arguments->forecast);
      if (arguments->json) {
        auto json = to_json(config, cost);
        if (match) json["match"] = to_json(*match);
        if (forecast) json["forecast"] = to_json(config, *forecast);
        fmt::print("{}\n", json.dump(2));
      } else {
        print_table(config, cost);
        if (match) print_match(*match);
        if (forecast) print(config, *forecast);
      }
      return ExitCode::kOk;
    };
  });
}

}  // namespace meristem::cli
