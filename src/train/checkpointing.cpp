#include "train/checkpointing.h"

#include "optim/learning_rate.h"
#include "train/tensor_files.h"

namespace meristem {

std::set<std::int64_t> pinned_steps(const RunConfig& config) {
  std::set<std::int64_t> pinned;
  for (const Segment& segment : segments(config)) pinned.insert(segment.until_step);
  for (const std::int64_t end : learning_rate_segment_ends(config)) pinned.insert(end);
  return pinned;
}

Checkpointing::Checkpointing(const RunConfig& config, const RunFolder& folder, std::optional<std::int64_t> resumed_after)
    : config_(config), folder_(folder.checkpoints()), pinned_(pinned_steps(config)), last_saved_(resumed_after.value_or(-1)) {}

bool Checkpointing::due(std::int64_t step) const {
  return pinned_.contains(step) || (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0);
}

bool Checkpointing::save(LiveModel& live, TrainState state) {
  if (state.step == last_saved_) return false;
  writer_.wait();
  // The copy is all that training waits for.
  auto weights = std::make_shared<NamedTensors>(host_copy(live.parameters().masters()));
  auto optimizer = std::make_shared<NamedTensors>(host_copy(live.optimizer().state()));
  last_saved_ = state.step;
  std::set<std::int64_t> pinned = pinned_;
  if (state.early_stop) pinned.insert(state.early_stop->best_step);  // the best so far; an earlier best goes
  writer_.submit([folder = folder_, weights, optimizer, state = std::move(state), keep_last = config_.checkpoint.keep_last,
                  keep_every = config_.checkpoint.keep_every, pinned = std::move(pinned)] {
    save_checkpoint(folder / checkpoint_name(state.step), {state, views_of(*weights), views_of(*optimizer)});
    rotate_checkpoints(folder, keep_last, keep_every, pinned);
  });
  if (!config_.checkpoint.async_) writer_.wait();
  return true;
}

}  // namespace meristem
