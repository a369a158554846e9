// What can be done with a run's config: train it, check its start, try it out, or train several variants of it.
#pragma once

#include <functional>
#include <memory>

#include "checkpoint/publish.h"
#include "config/load.h"
#include "core/errors.h"
#include "data/loader.h"
#include "models/registry.h"
#include "run/start.h"

namespace meristem {

// What a start can be refused for, found out without a model: the request, the run folder, the data and its supply. Writes nothing.
void check_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry);

// What a run makes for itself. Tests hand in others, which have a fault.
struct RunParts {
  std::function<std::unique_ptr<Loader>(const RunConfig& config, const Timeline& timeline, const Ranks& ranks)> make_loader =
      meristem::make_loader;
  MakeFolder make_checkpoint_folder = make_pending_folder;
};

// Trains to schedule.steps, together with the other ranks where the environment names some. kOk, or kInterrupted after a stop request was
// honoured with a checkpoint; all ranks return the same. Everything else throws, as as_rank says.
ExitCode run_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry, const RunParts& parts = {});

// Checks the start of every run before the first one begins, then trains them one after another; with resume auto finished ones are
// passed over. One that stops on a non-finite value does not keep the others from running: kNonFinite in the end. kInterrupted at once.
// The comparison goes to OUT/NAME-report.html.
ExitCode run_variants(const RunVariants& variants, const StartRequest& request, const ModelRegistry& registry);

// Prints phases and growth stages with expected times and peak memory. One step is run where the plan fits in this machine's memory, else
// shapes are checked without storage, and that is said.
// Of several ranks, one is tried out: its share of the batch and what it would hold; and what checkpoints take. InputError where they
// cannot share the batch, a rank does not fit into the GPU that is here, or the disk is too small.
void dry_run(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, std::int64_t ranks = 1);

}  // namespace meristem
