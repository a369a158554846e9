#include "train/checkpoint_check.h"

#include <span>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"
#include "optim/optimizer.h"

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

// `expected` holds shapes and types only.
void check_tensors(const SafetensorsFile& file, const NamedTensors& expected) {
  for (const auto& [name, model] : expected) {
    const TensorView& tensor = file.at(name);
    const std::string place = fmt::format("{}: tensor {}", file.path().string(), name);
    const Dtype type = model.scalar_type() == at::kLong ? Dtype::kI64 : Dtype::kF32;
    if (tensor.dtype != type)
      throw DamagedError(fmt::format("{}: has type {}; allowed: {}", place, dtype_name(tensor.dtype), dtype_name(type)));
    if (tensor.shape != model.sizes().vec()) {
      throw DamagedError(
          fmt::format("{}: has shape [{}]; the model has [{}]", place, fmt::join(tensor.shape, ", "), fmt::join(model.sizes(), ", ")));
    }
  }
  for (const TensorView& tensor : file.tensors()) {
    if (!expected.contains(tensor.name))
      throw DamagedError(fmt::format("{}: tensor {}: the model has none of this name", file.path().string(), printable(tensor.name)));
  }
}

void check_model(const LoadedCheckpoint& checkpoint, const RunConfig& config, const ModelRegistry& registry) {
  ModelConfig model_config = config.model;
  model_config.blocks = checkpoint.state.blocks;
  ModelBuild build;
  build.placement.device = at::kMeta;
  const auto model = registry.make(model_config, build, config.data.sequence_length);
  const std::vector<ParameterInfo> infos = model->parameter_infos();
  NamedTensors weights;
  for (const ParameterInfo& info : infos) weights.add(info.name, info.tensor);
  check_tensors(checkpoint.model, weights);
  // A file without a tensor is a checkpoint without moments.
  if (!checkpoint.optimizer.tensors().empty()) check_tensors(checkpoint.optimizer, state_layout(infos, config.optimizer));
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

LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const ModelRegistry& registry) {
  LoadedCheckpoint checkpoint = load_checkpoint(folder);
  check_plan(checkpoint.state, folder);
  check_model(checkpoint, config_of(checkpoint, folder), registry);
  return checkpoint;
}

}  // namespace meristem
