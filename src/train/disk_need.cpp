#include "train/disk_need.h"

#include <algorithm>

#include "models/costs.h"
#include "train/checkpointing.h"

namespace meristem {
namespace {

constexpr std::uint64_t kStateBytes = 12, kHeaderBytes = 1 << 18;

struct StageBytes {
  std::int64_t until_step;
  std::uint64_t bytes;
};

std::vector<StageBytes> bytes_by_stage(const RunConfig& config, const ModelRegistry& registry) {
  std::vector<StageBytes> stages;
  for (const StageCost& cost : stage_costs(config, registry)) {
    stages.push_back({cost.stage.until_step, static_cast<std::uint64_t>(cost.parameters.total) * kStateBytes + kHeaderBytes});
  }
  return stages;
}

}  // namespace

std::uint64_t checkpoint_disk_need(const RunConfig& config, const ModelRegistry& registry, std::int64_t from_step) {
  const auto stages = bytes_by_stage(config, registry);
  const auto bytes_at = [&](std::int64_t step) {
    const auto holds = [&](const StageBytes& stage) { return step <= stage.until_step; };
    return std::find_if(stages.begin(), stages.end() - 1, holds)->bytes;
  };
  const std::set<std::int64_t> pinned = pinned_steps(config);
  const CheckpointConfig& keep = config.checkpoint;
  std::uint64_t need = 0;
  for (const std::int64_t step : pinned) need += step > from_step ? bytes_at(step) : 0;
  const std::int64_t end = total_steps(config);
  if (keep.keep_every > 0) {
    for (std::int64_t step = (from_step / keep.keep_every + 1) * keep.keep_every; step <= end; step += keep.keep_every) {
      const bool written = keep.every > 0 && step % keep.every == 0;
      if (written && !pinned.contains(step)) need += bytes_at(step);
    }
  }
  const std::int64_t rotated = keep.every > 0 ? (end - from_step) / keep.every : 0;
  const std::int64_t newest = from_step > 0 ? 0 : std::min(keep.keep_last, rotated);
  const std::int64_t best = config.early_stop ? 1 : 0;
  return need + static_cast<std::uint64_t>(newest + best + 1) * stages.back().bytes;
}

}  // namespace meristem
