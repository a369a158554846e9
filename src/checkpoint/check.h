// A checkpoint against itself: the files are whole, but do they tell of one model?
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "checkpoint/store.h"
#include "config/run_config.h"

namespace meristem {

// What the two tensor files of a checkpoint have to hold: names, types and shapes. The views have no data.
struct CheckpointLayout {
  std::vector<TensorView> model, optimizer;
};

// The layout of the model that a config describes, model.blocks included, and of its optimizer. This room knows no models: the caller does.
using LayoutOf = std::function<CheckpointLayout(const RunConfig& config)>;

// load_checkpoint(folder), and then: config_hash is that of config_yaml, the depth plan goes with the blocks, and the tensors are those of
// the layout for that config and those blocks, by name, shape and type; an optimizer file without a tensor will do.
// DamagedError names file and key or tensor; InputError as load_checkpoint, and for a config that this program does not know.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const LayoutOf& layout_of);

// The config that a checkpoint carries, as it was resolved then. Errors as above.
RunConfig config_of(const LoadedCheckpoint& checkpoint, const std::filesystem::path& folder);

}  // namespace meristem
