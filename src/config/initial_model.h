// A run that begins with a checkpoint's weights has its model: what its config leaves unsaid under `model` is the checkpoint's.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "config/run_config.h"
#include "config/yaml_tree.h"

namespace meristem {

// The model that initial.checkpoint names (a checkpoint or a run folder), with the blocks and the plan it ended with. Nothing where there
// is no such folder; InputError or DamagedError where it holds no checkpoint. The rooms that can read checkpoints provide it.
using InitialModel = std::function<std::optional<ModelConfig>(const std::string& checkpoint)>;

// Lays the model of `initial.checkpoint` under the tree's `model`. What is written there stays, to be held against the checkpoint later.
// Blocks and plan go together: with initial.source_of there is one block an entry, each called once; where the config writes another number
// of blocks, the checkpoint's plan says nothing. InputError where the folder is not there and the config does not say its model itself, and
// for growth without model.blocks: a checkpoint does not know how deep this run will get.
void lay_initial_model_under(YamlNode& root, const InitialModel& initial);

}  // namespace meristem
