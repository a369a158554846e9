#include "train/initial.h"

#include <fmt/format.h>

#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "depth/growth.h"
#include "growth/remap.h"
#include "train/checkpoint_check.h"
#include "train/tensor_files.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

fs::path newest_of(const fs::path& path) {
  if (!is_folder(path)) throw InputError(fmt::format("initial.checkpoint: {}: is not a checkpoint or run folder", path.string()));
  if (!is_folder(path / "checkpoints")) return path;
  const auto found = newest_whole_checkpoint(path / "checkpoints");
  if (!found) throw InputError(fmt::format("initial.checkpoint: {}: has no checkpoint yet", path.string()));
  return found->path;
}

// What may differ from the checkpoint's config: which blocks are called, and how many there are (told by the state, checked apart).
bool is_depth(const std::string& key) { return key == "model.depth_plan" || key == "model.blocks" || key.rfind("model.loop.", 0) == 0; }

// A loop may be new, or run another number of times; but concat has weights, which the checkpoint has or has not.
void refuse_other_injection(const RunConfig& config, const RunConfig& saved, const fs::path& path) {
  const std::string &found = config.model.loop.injection, &there = saved.model.loop.injection;
  if ((found == "concat") == (there == "concat")) return;
  const char* why =
      found == "concat" ? "has no weights for concat; allowed: none, add" : "has weights for concat, which would be lost; allowed: concat";
  throw InputError(fmt::format("model.loop.injection: found {}; initial.checkpoint {} has {}, so it {}", found, path.string(), there, why));
}

void refuse_other_model(const RunConfig& config, const Initial& initial) {
  const RunConfig saved = config_of(initial.checkpoint, initial.path);
  for (const ConfigDifference& difference : config_differences(saved, config)) {
    if (difference.key.rfind("model.", 0) != 0 || is_depth(difference.key)) continue;
    throw InputError(fmt::format("{}: found {}; initial.checkpoint {} has {}", difference.key, difference.second, initial.path.string(),
                                 difference.first));
  }
  refuse_other_injection(config, saved, initial.path);
}

void refuse_other_blocks(const RunConfig& config, const Initial& initial) {
  const std::int64_t blocks = growth_stages(config).front().blocks, there = initial.checkpoint.state.blocks;
  const std::vector<std::int64_t>& source_of = config.initial->source_of;
  if (source_of.empty()) {
    if (there == blocks) return;
    throw InputError(
        fmt::format("initial.checkpoint: {}: holds {} blocks; this config begins with {}", initial.path.string(), there, blocks));
  }
  if (static_cast<std::int64_t>(source_of.size()) != blocks) {
    throw InputError(fmt::format("initial.source_of: found {} entries; this config begins with {} blocks", source_of.size(), blocks));
  }
  try {
    check_source_map(source_of, there);
  } catch (const InputError& error) {
    throw InputError(fmt::format("initial.source_of: {} ({})", error.what(), initial.path.string()));
  }
}

}  // namespace

std::optional<ModelConfig> initial_model(const std::string& path) {
  if (!is_folder(path)) return std::nullopt;
  const fs::path newest = newest_of(path);
  const LoadedCheckpoint checkpoint = load_checkpoint(newest);
  const TrainState& state = checkpoint.state;
  ModelConfig model = config_of(checkpoint, newest).model;
  model.blocks = state.blocks;
  if (model.loop.repeats.sampled) return model;  // the plan that was drawn last says nothing
  model.depth_plan = state.depth_plan;
  model.loop.repeats = {};
  return model;
}

Initial open_initial(const RunConfig& config) {
  const fs::path path = newest_of(config.initial->checkpoint);
  Initial initial{load_checkpoint(path), path};
  refuse_other_model(config, initial);
  refuse_other_blocks(config, initial);
  return initial;
}

void load_initial(const Initial& initial, const RunConfig& config, LiveModel& live) {
  const NamedTensors weights = tensors_of(initial.checkpoint.model);
  const std::vector<std::int64_t>& source_of = config.initial->source_of;
  live.parameters().load_masters(source_of.empty() ? weights : remap(weights, source_of));
}

}  // namespace meristem
