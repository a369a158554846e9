// The weights that a run begins with where its config says `initial`: those of another run's checkpoint, nothing else of it.
#pragma once

#include <filesystem>

#include "checkpoint/store.h"
#include "train/live_model.h"

namespace meristem {

struct Initial {
  LoadedCheckpoint checkpoint;
  std::filesystem::path path;
};

// Opens and verifies config.initial.checkpoint. InputError where its model is not the one that this config begins with: every model key
// but the depth plan and the loop must agree, and the blocks be those of the first stage (after initial.source_of).
Initial open_initial(const RunConfig& config);

// Weights by name into a model of the first stage; its optimizer stays fresh.
void load_initial(const Initial& initial, const RunConfig& config, LiveModel& live);

}  // namespace meristem
