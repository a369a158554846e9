#include "checkpoint/store.h"

#include <map>
#include <set>
#include <span>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"
#include "depth/plan.h"

namespace meristem {
namespace {

std::string state_path(const std::filesystem::path& folder) { return (folder / "state.json").string(); }

void check_plan(const TrainState& state, const std::filesystem::path& folder) {
  try {
    DepthPlan::parse(state.depth_plan).check(state.blocks, /*every_block=*/false);
  } catch (const InputError& error) {
    throw DamagedError(fmt::format("{}: depth_plan: {}", state_path(folder), error.what()));
  }
}

// `files`: the parts of one list of tensors, each of which is in one of them.
void check_tensors(const std::vector<const SafetensorsFile*>& files, const std::vector<TensorView>& layout) {
  std::map<std::string_view, const SafetensorsFile*> file_of;
  for (const SafetensorsFile* file : files) {
    for (const TensorView& tensor : file->tensors()) {
      file_of.emplace(tensor.name, file);
    }
  }
  std::set<std::string_view> names;
  for (const TensorView& expected : layout) {
    names.insert(expected.name);
    const auto found = file_of.find(expected.name);
    const SafetensorsFile& file = found == file_of.end() ? *files.front() : *found->second;
    const TensorView& tensor = file.at(expected.name);
    const std::string place = fmt::format("{}: tensor {}", file.path().string(), expected.name);
    if (tensor.dtype != expected.dtype) {
      throw DamagedError(fmt::format("{}: has type {}; allowed: {}", place, dtype_name(tensor.dtype), dtype_name(expected.dtype)));
    }
    if (tensor.shape != expected.shape) {
      throw DamagedError(
          fmt::format("{}: has shape [{}]; the model has [{}]", place, fmt::join(tensor.shape, ", "), fmt::join(expected.shape, ", ")));
    }
  }
  for (const auto& [name, file] : file_of) {
    if (!names.contains(name))
      throw DamagedError(
          fmt::format("{}: tensor {}: the model has none of this name", file->path().string(), printable(std::string(name))));
  }
}

}  // namespace

RunConfig config_of(const LoadedCheckpoint& checkpoint, const std::filesystem::path& folder) {
  const std::string& text = checkpoint.state.config_yaml;
  const std::string hash = xxh3_hex(std::as_bytes(std::span(text)));
  if (hash != checkpoint.state.config_hash) {
    throw DamagedError(
        fmt::format("{}: config_hash: found {}, config_yaml has {}", state_path(folder), printable(checkpoint.state.config_hash), hash));
  }
  return parse_config(text, state_path(folder) + ": config_yaml");
}

LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const LayoutOf& layout_of) {
  LoadedCheckpoint checkpoint = load_checkpoint(folder);
  check_plan(checkpoint.state, folder);
  RunConfig config = config_of(checkpoint, folder);
  config.model.blocks = checkpoint.state.blocks;
  const CheckpointLayout layout = layout_of(config);
  check_tensors({&checkpoint.model}, layout.model);
  std::vector<const SafetensorsFile*> parts;
  bool moments = false;
  for (const SafetensorsFile& part : checkpoint.optimizer) {
    parts.push_back(&part);
    moments = moments || !part.tensors().empty();
  }
  // Files without a tensor are a checkpoint without moments.
  if (moments) check_tensors(parts, layout.optimizer);
  return checkpoint;
}

}  // namespace meristem
