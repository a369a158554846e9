// When a run saves and what: copies the state, then writes it behind training's back.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "checkpoint/async_writer.h"
#include "checkpoint/store.h"
#include "train/live_model.h"
#include "train/run_folder.h"
#include "train/spikes.h"

namespace meristem {

// Steps after which a checkpoint is always written and never rotated: the ends of growth stages, phases and LR segments.
std::set<std::int64_t> pinned_steps(const RunConfig& config);

class Checkpointing {
 public:
  // resumed_after: the step that the run goes on after; its checkpoint stands.
  Checkpointing(const RunConfig& config, const RunFolder& folder, std::optional<std::int64_t> resumed_after);

  bool due(std::int64_t step) const;
  // Copies weights and optimizer state, then writes: behind training where checkpoint.async, else before it returns. A write still in
  // flight is waited for first; its error is thrown here. False where the step stands already: nothing is done.
  bool save(LiveModel& live, TrainState state);
  // Waits for the write in flight.
  void finish() { writer_.wait(); }

 private:
  const RunConfig& config_;
  std::filesystem::path folder_;
  std::set<std::int64_t> pinned_;
  std::int64_t last_saved_;
  AsyncWriter writer_;
};

}  // namespace meristem
