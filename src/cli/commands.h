// The subcommands. Each adds itself to the command line and, when chosen, leaves in `run` what the program then does.
#pragma once

#include <charconv>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "core/errors.h"
#include "core/json.h"
#include "core/text.h"
#include "eval/score.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"
#include "run/scale.h"

namespace meristem::cli {

using Action = std::function<ExitCode()>;

template <class Target>
struct WholeNumberOf {
  using Type = Target;
};
template <class Number>
struct WholeNumberOf<std::optional<Number>> {
  using Type = Number;
};
template <class Target>
using WholeNumber = typename WholeNumberOf<Target>::Type;

void add_train(CLI::App& app, Action& run);
void add_plan(CLI::App& app, Action& run);
void add_inspect(CLI::App& app, Action& run);
void add_grow(CLI::App& app, Action& run);
void add_generate(CLI::App& app, Action& run);
void add_eval(CLI::App& app, Action& run);
void add_analyze(CLI::App& app, Action& run);
void add_import(CLI::App& app, Action& run);
void add_export(CLI::App& app, Action& run);
void add_describe(CLI::App& app, Action& run);

// An option that takes a whole number from least to most: InputError for anything else, an overflow or a blank among them. The help shows
// the default where `target` holds one.
template <class Target>
CLI::Option* add_whole_number(CLI::App& command, const std::string& name, Target& target, const std::string& help,
                              WholeNumber<Target> least, WholeNumber<Target> most) {
  const auto take = [name, &target, least, most](const std::string& text) {
    WholeNumber<Target> value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < least || value > most) {
      throw InputError(fmt::format("{}: found {}; allowed: a whole number from {} to {}", name, in_quotes(text), least, most));
    }
    target = value;
  };
  CLI::Option* option = command.add_option_function<std::string>(name, take, help)->type_name("INT");
  if constexpr (std::is_integral_v<Target>) option->default_str(std::to_string(target));
  return option;
}

// What several of them do with a checkpoint that the user names; in checkpoint_model.cpp.

// resolve_checkpoint; says on stderr which damaged ones were passed over.
std::filesystem::path checkpoint_folder(const std::filesystem::path& path);

struct NamedCheckpoint {
  std::filesystem::path folder;
  LoadedCheckpoint content;
};
// The same, opened and held against its own config; read_checkpoint.
NamedCheckpoint open_named_checkpoint(const std::filesystem::path& path);

struct CheckpointModel {
  RunConfig config;  // as trained; model.blocks is the checkpoint's
  std::shared_ptr<Model> model;
  std::unique_ptr<FlatParameters> parameters;
  DepthPlan plan;  // as trained
};
// positions: how long a text is expected to be, where that is more than the model was trained on. precision: what to compute in, a word of
// precision.compute; empty: as trained.
CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device, std::int64_t positions = 0,
                                      const std::string& precision = {});

// --precision, for that, and --seconds, with which a command says on stderr how long its work took without start-up, for programs.
struct RunOptions {
  std::string precision;
  bool seconds = false;
  void say_seconds(double begin) const;
};
void add_run_options(CLI::App& command, RunOptions& options);

// The model of a config, its weights without memory: for what its shapes and names tell.
std::shared_ptr<Model> model_without_storage(const RunConfig& config);

// --plan and --repeats: another depth plan than the one trained with, or another number of rounds of its loop.
struct PlanChoice {
  std::string text;
  std::optional<std::int64_t> repeats;
  bool empty() const { return text.empty() && !repeats; }
};
void add_plan_options(CLI::App& command, PlanChoice& choice);

// The plan that the user asked for, checked against the model's blocks; `trained` where nothing is asked for.
DepthPlan plan_or(const PlanChoice& choice, const DepthPlan& trained, std::int64_t blocks);

// What `eval` and `analyze` share; in eval_command.cpp.

std::vector<std::int32_t> token_ids(const JsonCursor& list);
// Calls action(value) for each line of JSON lines; DamagedError names the line.
void each_json_line(const std::string& text, const std::string& path, const std::function<void(const JsonCursor&)>& action);
// {"context": [ids], "choices": [[ids], …]}, other keys left alone.
ChoiceItem choice_item(const JsonCursor& item);
// A bar on a terminal; for a program that draws its own, lines "progress DONE TOTAL".
std::function<void(std::size_t done, std::size_t total)> show_progress(bool lines);

// plan --gpus; in plan_forecast.cpp.

struct ForecastOptions {
  std::optional<std::int64_t> gpus, node_size;
  std::optional<double> gbps, flops_per_second, node_gbps, dollars_per_hour;
  std::optional<std::string> gpu;
};
void add_forecast_options(CLI::App& command, ForecastOptions& options);
// InputError that names an option.
void check_forecast_options(const ForecastOptions& options);

struct Forecast {
  Cluster cluster;
  Timeline timeline;
  RunForecast asked;
  std::vector<RunForecast> table;  // over numbers of GPUs that can share the batch
};
// options.gpus is given and the options are checked. InputError where so many ranks cannot share the batch.
Forecast forecast_of(RunConfig config, const ForecastOptions& options);
nlohmann::ordered_json to_json(const RunConfig& config, const Forecast& forecast);
void print(const RunConfig& config, const Forecast& forecast);

}  // namespace meristem::cli
