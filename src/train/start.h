// Where a run begins: from nothing, from its own newest checkpoint, from a named one, or as a branch of another run's.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "models/registry.h"
#include "train/initial.h"

namespace meristem {

struct StartRequest {
  std::string resume = "none";  // auto | none | a checkpoint's path
  std::string branch;           // a checkpoint's path, or empty. With resume auto: a branch that was cut short goes on, else it begins
};

struct Start {
  std::optional<LoadedCheckpoint> checkpoint;  // empty: from the beginning
  std::filesystem::path checkpoint_path;
  std::optional<Initial> initial;  // from the beginning, with these weights
  bool new_run = true;             // the run folder must not exist yet
  bool from_trunk = false;         // the checkpoint is another run's: nothing of this run has happened yet
  std::vector<std::string> notes;  // lines to be said aloud: skipped damaged checkpoints, a changed machine
};

// The checkpoint that the run in `folder` began from as a branch, as its metrics.jsonl says; empty for any other run.
std::filesystem::path branch_origin(const std::filesystem::path& folder);

// InputError where the request contradicts the config or the folder: an exact resume with a changed key names the key and suggests
// --branch; DamagedError for a damaged checkpoint.
Start decide_start(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry);

// Index of the growth stage whose model a checkpoint after update `step` holds.
std::size_t stage_of_step(const std::vector<GrowthStage>& stages, std::int64_t step);

// Lines for every part of the environment that differs and on which bit-exact resume depends.
std::vector<std::string> environment_notes(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now);

}  // namespace meristem
