// A training run: segments of constant model, plan and mixture; growth between them.
#pragma once

#include "core/errors.h"
#include "models/registry.h"
#include "train/start.h"

namespace meristem {

// What a start can be refused for, found out without a model: the request, the run folder, the data and its supply. Writes nothing.
void check_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry);

// Trains to schedule.steps. kOk, or kInterrupted after a stop request was honoured with a checkpoint. Everything else throws.
ExitCode run_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry);

}  // namespace meristem
