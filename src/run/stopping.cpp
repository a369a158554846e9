#include "run/stopping.h"

#include <cmath>
#include <csignal>

#include <fmt/format.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

// A signal handler may touch nothing but lock-free objects of static storage.
volatile std::sig_atomic_t g_signal = 0;

void on_stop(int signal) {
  if (signal == SIGINT && g_signal == SIGINT) ::_exit(130);
  g_signal = signal;
}

}  // namespace

void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = on_stop;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) ::sigaction(signal, &action, nullptr);
}

bool stop_requested() { return g_signal != 0; }
int stop_signal() { return g_signal; }

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
