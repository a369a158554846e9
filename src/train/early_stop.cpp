#include "train/early_stop.h"

#include <cmath>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {

double watched_loss(const EarlyStopConfig& config, const std::vector<ValidationLoss>& losses) {
  double sum = 0;
  for (const ValidationLoss& loss : losses) {
    if (loss.source == config.source) return loss.loss;
    sum += loss.loss;
  }
  return sum / static_cast<double>(losses.size());
}

bool observe_validation(const EarlyStopConfig& config, std::int64_t step, double loss, std::optional<EarlyStopState>& state) {
  if (!std::isfinite(loss)) throw NonFiniteError(fmt::format("step {}: the validation loss is {}", step, number_text(loss)));
  if (!state || loss < state->best_loss - config.min_delta) {
    state = EarlyStopState{loss, step, 0};
    return true;
  }
  ++state->without_improvement;
  return false;
}

bool stops_early(const RunConfig& config, const TrainState& state) {
  return config.early_stop && state.early_stop && state.early_stop->without_improvement >= config.early_stop->patience;
}

}  // namespace meristem
