// Whether validation still improves. What it knows is part of the checkpoint, so a resumed run stops where the uninterrupted one does.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoint/train_state.h"
#include "config/run_config.h"
#include "train/validation.h"

namespace meristem {

// The watched loss: that of config.source, else the mean over the sources.
double watched_loss(const EarlyStopConfig& config, const std::vector<ValidationLoss>& losses);

// Takes in the validation after update `step`; NonFiniteError where its loss is not finite. True where it is the best so far, by at least
// min_delta.
bool observe_validation(const EarlyStopConfig& config, std::int64_t step, double loss, std::optional<EarlyStopState>& state);

// Whether `patience` validations in a row brought nothing.
bool stops_early(const RunConfig& config, const TrainState& state);

}  // namespace meristem
