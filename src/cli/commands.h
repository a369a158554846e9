// The subcommands. Each adds itself to the command line and, when chosen, leaves in `run` what the program then does.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "core/errors.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"

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
  RunConfig config;  // as trained; model.blocks is the checkpoint's
  std::shared_ptr<Model> model;
  std::unique_ptr<FlatParameters> parameters;
  DepthPlan plan;  // as trained
};
// positions: how long a text is expected to be, where that is more than the model was trained on.
CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device, std::int64_t positions = 0);

// The plan that the user asked for, checked against the model's blocks; `trained` where `text` is empty.
DepthPlan plan_or(const std::string& text, const DepthPlan& trained, std::int64_t blocks);

}  // namespace meristem::cli
