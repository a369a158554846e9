// The subcommands. Each adds itself to the command line and, when chosen, leaves in `run` what the program then does.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "core/errors.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"
#include "run/scale.h"

namespace meristem::cli {

using Action = std::function<ExitCode()>;

void add_train(CLI::App& app, Action& run);
void add_plan(CLI::App& app, Action& run);
void add_inspect(CLI::App& app, Action& run);
void add_grow(CLI::App& app, Action& run);
void add_generate(CLI::App& app, Action& run);
void add_eval(CLI::App& app, Action& run);
void add_import(CLI::App& app, Action& run);
void add_export(CLI::App& app, Action& run);

// What several of them do with a checkpoint that the user names; in checkpoint_model.cpp.

// resolve_checkpoint; says on stderr which damaged ones were passed over.
std::filesystem::path checkpoint_folder(const std::filesystem::path& path);

struct CheckpointModel {
  std::filesystem::path folder;
  RunConfig config;  // as trained; model.blocks is the checkpoint's
  std::shared_ptr<Model> model;
  std::unique_ptr<FlatParameters> parameters;
  DepthPlan plan;  // as trained
};
// positions: how long a text is expected to be, where that is more than the model was trained on.
CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device, std::int64_t positions = 0);

// The plan that the user asked for, checked against the model's blocks; `trained` where `text` is empty.
DepthPlan plan_or(const std::string& text, const DepthPlan& trained, std::int64_t blocks);

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
Forecast forecast_of(const RunConfig& config, const ForecastOptions& options);
nlohmann::ordered_json to_json(const RunConfig& config, const Forecast& forecast);
void print(const RunConfig& config, const Forecast& forecast);

}  // namespace meristem::cli
