// Where a run begins: from nothing, from its own newest checkpoint, from a named one, or as a branch of another run's.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "config/timeline.h"
#include "data/loader.h"
#include "distributed/ranks.h"
#include "models/registry.h"
#include "step/live_model.h"

namespace meristem {

struct Initial {
  LoadedCheckpoint checkpoint;
  std::filesystem::path path;
};

// The model of the checkpoint (or of the newest in the run folder) at `path`, as a run that begins with it has it: with the blocks and the
// plan it ended with, the loop's repeats as they were last. Nothing where there is no such folder. For load_config.
std::optional<ModelConfig> initial_model(const std::string& path);

// Opens and verifies config.initial.checkpoint. InputError where its model is not the one that this config begins with: every model key
// but the depth plan and the loop must agree (and of the loop, whether it has weights: injection concat), and the blocks be those of the
// first stage (after initial.source_of).
Initial open_initial(const RunConfig& config, const Timeline& timeline);

// Weights by name into a model of the first stage; its optimizer stays fresh.
void load_initial(const Initial& initial, const RunConfig& config, LiveModel& live);

struct StartRequest {
  std::string resume = "none";  // auto | none | a checkpoint's path
  std::string branch;           // a checkpoint's path, or empty. With resume auto: a branch that was cut short goes on, else it begins
};

struct Start {
  std::optional<LoadedCheckpoint> checkpoint;  // empty: from the beginning
  std::filesystem::path checkpoint_path;
  std::optional<Initial> initial;  // from the beginning, with these weights
  bool new_run = true;             // the run folder must not exist yet
  std::vector<std::string> seen;   // what stood in its checkpoints/ when this was decided
  bool from_trunk = false;         // the checkpoint is another run's: nothing of this run has happened yet
  std::vector<std::string> notes;  // lines to be said aloud: skipped damaged checkpoints, a changed machine
};

// The checkpoint that the run in `folder` began from as a branch, as its metrics.jsonl says; empty for any other run.
std::filesystem::path branch_origin(const std::filesystem::path& folder);

// InputError where the request contradicts the config or the folder: an exact resume with a changed key names the key and suggests
// --branch; DamagedError for a damaged checkpoint.
Start decide_start(const RunConfig& config, const Timeline& timeline, const StartRequest& request, const ModelRegistry& registry);

// What a checkpoint of a config's model holds, for open_checkpoint. Builds model and optimizer without storage.
LayoutOf checkpoint_layout(const ModelRegistry& registry);

// The loader of a config: phases begin at steps, amounts in tokens resolved.
std::unique_ptr<Loader> make_loader(const RunConfig& config, const Timeline& timeline, const Ranks& ranks = *Ranks::alone());

// How a rank goes through its part of an update: forward passes, and the sequences of each, at most batch.micro_sequences. InputError where
// the ranks cannot share the batch.
struct MicroBatches {
  std::int64_t count = 0, sequences = 0;
};
MicroBatches micro_batches_of(const RunConfig& config, int ranks);

// InputError, on all ranks, where they did not start the same run: config, checkpoint.
void agree_on_start(Ranks& ranks, const RunConfig& config, const Start& start);
// The same of data and program.
void agree_on_data(Ranks& ranks, const Loader& loader);

// Lines for every part of the environment that differs and on which bit-exact resume depends.
std::vector<std::string> environment_notes(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now);

}  // namespace meristem
