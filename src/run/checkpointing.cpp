#include "run/checkpointing.h"

#include <algorithm>
#include <numeric>

#include "checkpoint/tensors.h"
#include "models/costs.h"

namespace meristem {
namespace {

constexpr std::uint64_t kWeightBytes = 4, kHeaderBytes = 1 << 18;

struct StageBytes {
  std::int64_t until_step;
  std::uint64_t bytes;
};

std::vector<StageBytes> bytes_by_stage(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry) {
  std::vector<StageBytes> stages;
  for (const StageCost& cost : stage_costs(config, timeline, registry)) {
    const std::uint64_t weights = static_cast<std::uint64_t>(cost.parameters.total) * kWeightBytes;
    stages.push_back({cost.stage.until_step, weights + static_cast<std::uint64_t>(cost.memory.optimizer) + kHeaderBytes});
  }
  return stages;
}

// Of the checkpoints in (from_step, end] that keep_every keeps and that are not pinned; counted stage by stage, since there may be 1e12.
std::uint64_t kept_bytes(const std::vector<StageBytes>& stages, const CheckpointConfig& keep, std::int64_t from_step, std::int64_t end,
                         const std::set<std::int64_t>& pinned) {
  if (keep.every == 0 || keep.keep_every == 0) return 0;
  const std::int64_t factor = keep.every / std::gcd(keep.every, keep.keep_every);
  if (factor > end / keep.keep_every) return 0;
  const std::int64_t period = factor * keep.keep_every;  // only what is written can be kept
  double bytes = 0;
  for (const StageBytes& stage : stages) {
    const std::int64_t until = std::min(stage.until_step, end);
    if (until <= from_step) continue;
    std::int64_t count = until / period - from_step / period;
    for (const std::int64_t step : pinned) count -= step > from_step && step <= until && step % period == 0 ? 1 : 0;
    bytes += static_cast<double>(count) * static_cast<double>(stage.bytes);
    from_step = until;
  }
  return static_cast<std::uint64_t>(std::min(bytes, 1e18));
}

// Host copies of what this rank writes: the first one the weights, then each tensor of the optimizer whoever has the fewest bytes.
void copy_own_share(LiveModel& live, NamedTensors& weights, NamedTensors& optimizer) {
  const Ranks& ranks = live.ranks();
  std::vector<std::size_t> bytes(static_cast<std::size_t>(ranks.size()));
  live.each_weight([&](const std::string& name, const at::Tensor& tensor) {
    bytes[0] += tensor.nbytes();
    if (ranks.first()) weights.add(name, host_copy(tensor));
  });
  live.each_state([&](const std::string& name, const at::Tensor& tensor) {
    const auto least = std::min_element(bytes.begin(), bytes.end());
    *least += tensor.nbytes();
    if (least - bytes.begin() == ranks.rank()) optimizer.add(name, host_copy(tensor));
  });
}

}  // namespace

std::set<std::int64_t> pinned_steps(const Timeline& timeline) {
  std::set<std::int64_t> pinned;
  for (const Span& span : timeline.spans()) pinned.insert(span.until_step);
  for (const std::int64_t end : timeline.rate().piece_ends()) pinned.insert(end);
  return pinned;
}

Checkpointing::Checkpointing(const RunConfig& config, const Timeline& timeline, const RunFolder& folder, const TrainState* resumed_after,
                             MakeFolder make_folder)
    : config_(config), folder_(folder.checkpoints()), make_folder_(std::move(make_folder)), pinned_(pinned_steps(timeline)) {
  if (resumed_after == nullptr) return;
  last_saved_ = resumed_after->step;
  saved_early_stop_ = resumed_after->early_stop;
}

bool Checkpointing::due(std::int64_t step) const {
  return pinned_.contains(step) || (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0);
}

bool Checkpointing::save(LiveModel& live, TrainState state) {
  const bool stands = state.step == last_saved_;
  if (stands && state.early_stop == saved_early_stop_) return false;
  writer_.wait();
  // The copy is all that training waits for.
  auto weights = std::make_shared<NamedTensors>(), optimizer = std::make_shared<NamedTensors>();
  copy_own_share(live, *weights, *optimizer);
  last_saved_ = state.step;
  saved_early_stop_ = state.early_stop;
  Ranks& ranks = live.ranks();
  const Writers writers{ranks.rank(), ranks.size(),
                        [&ranks](const std::string& what, const std::string& text) { return ranks.meet("checkpoint " + what, text); }};
  std::set<std::int64_t> pinned = pinned_;
  if (state.early_stop) pinned.insert(state.early_stop->best_step);  // the best so far; an earlier best goes
  writer_.submit([folder = folder_, make_folder = make_folder_, weights, optimizer, state = std::move(state), writers, stands,
                  keep_last = config_.checkpoint.keep_last, keep_every = config_.checkpoint.keep_every, pinned = std::move(pinned)] {
    save_checkpoint(folder / checkpoint_name(state.step), {state, views_of(*weights), views_of(*optimizer)}, make_folder, writers,
                    stands ? IfWhole::kReplace : IfWhole::kRefuse);
    if (writers.writer == 0) rotate_checkpoints(folder, keep_last, keep_every, pinned);
  });
  if (!config_.checkpoint.async_) writer_.wait();
  return !stands;
}

std::uint64_t checkpoint_disk_need(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry,
                                   std::int64_t from_step) {
  const auto stages = bytes_by_stage(config, timeline, registry);
  const auto bytes_at = [&](std::int64_t step) {
    const auto holds = [&](const StageBytes& stage) { return step <= stage.until_step; };
    return std::find_if(stages.begin(), stages.end() - 1, holds)->bytes;
  };
  const std::set<std::int64_t> pinned = pinned_steps(timeline);
  const CheckpointConfig& keep = config.checkpoint;
  std::uint64_t need = 0;
  for (const std::int64_t step : pinned) need += step > from_step ? bytes_at(step) : 0;
  const std::int64_t end = timeline.updates();
  need += kept_bytes(stages, keep, from_step, end, pinned);
  const std::int64_t rotated = keep.every > 0 ? (end - from_step) / keep.every : 0;
  const std::int64_t newest = from_step > 0 ? 0 : std::min(keep.keep_last, rotated);
  const std::int64_t best = config.early_stop ? 1 : 0;
  return need + static_cast<std::uint64_t>(newest + best + 1) * stages.back().bytes;
}

}  // namespace meristem
