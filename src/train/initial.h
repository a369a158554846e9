// The weights that a run begins with where its config says `initial`: those of another run's checkpoint, nothing else of it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "checkpoint/store.h"
#include "train/live_model.h"

namespace meristem {

struct Initial {
  LoadedCheckpoint checkpoint;
  std::filesystem::path path;
};

// The model of the checkpoint (or of the newest in the run folder) at `path`, as a run that begins with it has it: with the blocks and the
// plan it ended with, the loop's repeats as they were last. Nothing where there is no such folder. For load_config.
std::optional<ModelConfig> initial_model(const std::string& path);

// Opens and verifies config.initial.checkpoint. InputError where its model is not the one that this config begins with: every model key
// but the depth plan and the loop must agree (and of the loop, whether it has weights: injection concat), and the blocks be those of the
// first stage (after initial.source_of).
Initial open_initial(const RunConfig& config);

// Weights by name into a model of the first stage; its optimizer stays fresh.
void load_initial(const Initial& initial, const RunConfig& config, LiveModel& live);

}  // namespace meristem
