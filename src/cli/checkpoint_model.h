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
