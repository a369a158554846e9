// A checkpoint opened for use: its config, and a model with its weights.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "models/registry.h"
#include "optim/flat_parameters.h"

namespace meristem::cli {

// `path` is a checkpoint folder, or a run folder, which means its newest whole checkpoint.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path);

struct CheckpointModel {
  RunConfig config;  // as trained; model.blocks is the checkpoint's
  std::shared_ptr<Model> model;
  std::unique_ptr<FlatParameters> parameters;
  DepthPlan plan;    // as trained
};
CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device);

// The plan that the user asked for, checked against the model's blocks; `trained` where `text` is empty.
DepthPlan plan_or(const std::string& text, const DepthPlan& trained, std::int64_t blocks);

}  // namespace meristem::cli
