#include "metrics/progress.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

namespace meristem {
namespace {

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool wants_bar(const ProgressOptions& options) {
  if (options.mode != ProgressOptions::Mode::kAuto) return options.mode == ProgressOptions::Mode::kBar;
  const char* term = std::getenv("TERM");
  return ::isatty(options.fd) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

constexpr std::string_view kClearLine = "\r\033[K";

}  // namespace

Progress::Progress(ProgressOptions options) : options_(std::move(options)), bar_(wants_bar(options_)) {
  if (!options_.clock) options_.clock = steady_seconds;
  last_draw_ = options_.clock() - options_.redraw_seconds;  // the first state is drawn at once
}

Progress::~Progress() { finish(); }

void Progress::update(const ProgressState& state) {
  state_ = state;
  shown_ = false;
  if (!bar_) {
    const std::int64_t every = std::max<std::int64_t>(options_.plain_every, 1);
    if (state.step % every == 0 || state.step == state.total) {
      write(progress_line(state) + "\n");
      shown_ = true;
    }
    return;
  }
  const double now = options_.clock();
  if (now - last_draw_ < options_.redraw_seconds) return;
  last_draw_ = now;
  draw();
}

void Progress::note(const std::string& message) {
  if (!drawn_) {
    write(message + "\n");
    return;
  }
  // One write, so that the terminal never shows the message and no bar.
  write(std::string(kClearLine) + message + "\n" + progress_bar(state_, columns() - 1));
}

void Progress::finish() {
  if (!drawn_) return;
  if (!shown_) draw();
  write("\n");
  drawn_ = false;
}

// The width is asked anew each time: people resize windows.
int Progress::columns() const {
  if (options_.columns > 0) return options_.columns;
  struct winsize size {};
  if (::ioctl(options_.fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void Progress::draw() {
  // The last column stays free: writing into it makes some terminals wrap.
  write(std::string(kClearLine) + progress_bar(state_, columns() - 1));
  drawn_ = true;
  shown_ = true;
}

// A terminal that went away (EIO, EPIPE) must not end a run of days.
void Progress::write(const std::string& text) {
  std::string_view left = text;
  while (!left.empty()) {
    const ssize_t put = ::write(options_.fd, left.data(), left.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return;
    left.remove_prefix(static_cast<std::size_t>(put));
  }
}

}  // namespace meristem
