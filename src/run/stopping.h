// Why a run may end before its last update: a stop request, or a validation that no longer improves.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoint/train_state.h"
#include "config/run_config.h"
#include "run/validation.h"

namespace meristem {

// Stop requests: SIGTERM, SIGUSR1 and the first Ctrl-C ask the run to save and end with exit code 75; a second Ctrl-C ends it at once
// (130).
void install_stop_handlers();
bool stop_requested();
// Which signal asked, 0 for none.
int stop_signal();

// Early stop. What it knows is part of the checkpoint, so a resumed run stops where the uninterrupted one does.

// The watched loss: that of config.source, else the mean over the sources.
double watched_loss(const EarlyStopConfig& config, const std::vector<ValidationLoss>& losses);

// Takes in the validation after update `step`; NonFiniteError where its loss is not finite. True where it is the best so far, by at least
// min_delta.
bool observe_validation(const EarlyStopConfig& config, std::int64_t step, double loss, std::optional<EarlyStopState>& state);

// Whether `patience` validations in a row brought nothing.
bool stops_early(const RunConfig& config, const TrainState& state);

}  // namespace meristem
