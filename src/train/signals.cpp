#include "train/signals.h"

#include <csignal>

#include <unistd.h>

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

}  // namespace meristem
