// Where a run begins: from nothing, from its own newest checkpoint, from a named one, or as a branch of another run's.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "models/registry.h"

namespace meristem {

struct StartRequest {
  std::string resume = "none";  // auto | none | a checkpoint's path
  std::string branch;           // a checkpoint's path, or empty
};

struct Start {
  std::optional<LoadedCheckpoint> checkpoint;  // empty: from the beginning
  std::filesystem::path checkpoint_path;
  bool new_run = true;                         // the run folder must not exist yet
  std::vector<std::string> notes;              // lines to be said aloud: skipped damaged checkpoints, a changed machine
};

// InputError where the request contradicts the config or the folder: an exact resume with a changed key names the key and suggests
// --branch; DamagedError for a damaged checkpoint.
Start decide_start(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry);

// Index of the growth stage whose model a checkpoint after update `step` holds.
std::size_t stage_of_step(const std::vector<GrowthStage>& stages, std::int64_t step);

// Lines for every part of the environment that differs and on which bit-exact resume depends.
std::vector<std::string> environment_notes(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now);

}  // namespace meristem
