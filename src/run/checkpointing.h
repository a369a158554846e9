// When a run saves and what: copies the state, then writes it behind training's back. And how much disk that will take.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "checkpoint/async_writer.h"
#include "checkpoint/store.h"
#include "config/timeline.h"
#include "models/registry.h"
#include "run/run_folder.h"
#include "step/live_model.h"
#include "step/spikes.h"

namespace meristem {

// Steps after which a checkpoint is always written and never rotated: the ends of stages, phases and pieces of the
// learning rate.
std::set<std::int64_t> pinned_steps(const Timeline& timeline);

class Checkpointing {
 public:
  // resumed_after: the state that the run goes on from, whose checkpoint stands; null for a new run.
  Checkpointing(const RunConfig& config, const Timeline& timeline, const RunFolder& folder, const TrainState* resumed_after,
                MakeFolder make_folder);

  bool due(std::int64_t step) const;
  // Copies weights and optimizer state, then writes: behind training where checkpoint.async, else before it returns. A write still in
  // flight is waited for first; its error is thrown here. False where the step stands already: nothing is done, but where a validation has
  // since told early_stop something, which takes the checkpoint's place. Several ranks write together, each a part of the tensors, and all
  // have to call this; the weights have to be here.
  bool save(LiveModel& live, TrainState state);
  // Waits for the write in flight.
  void finish() { writer_.wait(); }

 private:
  const RunConfig& config_;
  std::filesystem::path folder_;
  MakeFolder make_folder_;
  std::set<std::int64_t> pinned_;
  std::int64_t last_saved_ = -1;
  std::optional<EarlyStopState> saved_early_stop_;
  AsyncWriter writer_;
};

// Bytes that checkpoints written after update `from_step` (0: a new run) hold at the same time at most: all that are never rotated, the
// newest `keep_last`, and one being written. A resumed run's newest ones take the place of those already there. Counted: fp32
// weights, what the optimizer keeps, and the headers.
std::uint64_t checkpoint_disk_need(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry,
                                   std::int64_t from_step);

}  // namespace meristem
