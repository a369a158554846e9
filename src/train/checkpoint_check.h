// A checkpoint against itself: the files are whole, but do they tell of one model?
#pragma once

#include <filesystem>

#include "checkpoint/store.h"
#include "config/run_config.h"
#include "models/registry.h"

namespace meristem {

// load_checkpoint(folder), and then: config_hash is that of config_yaml, the depth plan goes with the blocks, and the tensors are those of
// the model that config and blocks describe, by name, shape and type (fp32), and those of its optimizer. Builds both without storage.
// DamagedError names file and key or tensor; InputError as load_checkpoint, and for a config that this program does not know.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const ModelRegistry& registry);

// The config that a checkpoint carries, as it was resolved then. Errors as above.
RunConfig config_of(const LoadedCheckpoint& checkpoint, const std::filesystem::path& folder);

}  // namespace meristem
