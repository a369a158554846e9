#include "cli/checkpoint_model.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include "config/load.h"
#include "core/errors.h"
#include "step/live_model.h"
#include "train/checkpoint_check.h"
#include "train/tensor_files.h"

namespace meristem::cli {

std::filesystem::path resolve_checkpoint(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) throw InputError(fmt::format("{}: is not a checkpoint or run folder", path.string()));
  if (!std::filesystem::is_directory(path / "checkpoints", ignored)) return path;
  const auto found = newest_whole_checkpoint(path / "checkpoints");
  if (!found) throw InputError(fmt::format("{}: has no checkpoint yet", path.string()));
  for (const std::string& line : found->skipped_damaged) fmt::print(stderr, "DAMAGED checkpoint skipped: {}\n", line);
  return found->path;
}

CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device, std::int64_t positions) {
  const std::filesystem::path folder = resolve_checkpoint(path);
  const ModelRegistry registry = builtin_registry();
  const LoadedCheckpoint checkpoint = open_checkpoint(folder, registry);
  CheckpointModel out;
  out.config = config_of(checkpoint, folder);
  out.config.model.blocks = checkpoint.state.blocks;
  const ModelBuild build = model_build(out.config, device);
  out.model = registry.make(out.config.model, build, std::max(positions, out.config.data.sequence_length));
  out.parameters = std::make_unique<FlatParameters>(out.model->parameter_infos(), build.placement.compute, out.config.optimizer);
  out.parameters->load_masters(tensors_of(checkpoint.model));
  out.plan = DepthPlan::parse(checkpoint.state.depth_plan);
  return out;
}

DepthPlan plan_or(const std::string& text, const DepthPlan& trained, std::int64_t blocks) {
  if (text.empty()) return trained;
  DepthPlan plan = DepthPlan::parse(text);
  plan.check(blocks, /*every_block=*/false);
  return plan;
}

}  // namespace meristem::cli
