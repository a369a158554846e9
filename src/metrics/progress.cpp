#include "metrics/progress.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "core/text.h"

namespace meristem {
namespace {

// 941, 12.3k, 1.25M: three figures and a letter.
std::string short_number(double value) {
  static constexpr const char* kSuffix[] = {"", "k", "M", "G", "T", "P"};
  std::size_t i = 0;
  while (std::abs(value) >= 999.5 && i + 1 < std::size(kSuffix)) {
    value /= 1000;
    ++i;
  }
  const int decimals = i == 0 || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, kSuffix[i]);
}

std::string depth_text(const ProgressState& state) {
  if (state.blocks == 0) return "";
  if (state.calls == 0 || state.calls == state.blocks) return fmt::format("{} blocks", state.blocks);
  return fmt::format("{} blocks, {} calls", state.blocks, state.calls);
}

// What of the tokens is no padding and what is trained on, where that is clearly less than all.
std::string tokens_worth_text(const ProgressState& state) {
  constexpr double kClearly = 0.95;
  const double all = state.tokens_per_second, real = state.real_tokens_per_second, trained = state.trained_tokens_per_second;
  if (std::isnan(all) || std::isnan(real) || std::isnan(trained) || trained >= kClearly * all) return "";
  std::string text = real < kClearly * all ? short_number(real) + " real" : "";
  if (trained < kClearly * real) text += (text.empty() ? "" : ", ") + short_number(trained) + " trained";
  return text;
}

double fraction_done(const ProgressState& state) {
  if (state.total <= 0) return 0;
  return std::clamp(static_cast<double>(state.step) / static_cast<double>(state.total), 0.0, 1.0);
}

std::string named(const char* name, double value, const char* format) {
  return std::isnan(value) ? "" : fmt::format("{} {}", name, fmt::format(fmt::runtime(format), value));
}

// Whether LANG and friends matter is not worth asking: block characters are UTF-8, which every terminal of today reads.
std::string bar_text(double fraction, int cells) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(fraction * cells * 8));
  std::string text;
  int used = 0;
  for (; used < eighths / 8; ++used) text += "█";
  if (eighths % 8 != 0) {
    text += kEighths[eighths % 8];
    ++used;
  }
  return text + std::string(static_cast<std::size_t>(cells - used), ' ');
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string progress_line(const ProgressState& state) {
  std::string worth = tokens_worth_text(state);
  if (!worth.empty()) worth = " (" + worth + ")";
  std::vector<std::string> fields{fmt::format("step {}/{}", state.step, state.total),
                                  named("loss", state.loss, "{:.4f}"),
                                  named("lr", state.lr, "{:.3g}"),
                                  named("grad", state.grad_norm, "{:.3g}"),
                                  depth_text(state),
                                  std::isnan(state.tokens_per_second) ? "" : short_number(state.tokens_per_second) + " tokens/s" + worth,
                                  std::isnan(state.eta) ? "" : duration_text(state.eta) + " left"};
  std::erase(fields, "");
  return fmt::format("{}", fmt::join(fields, "  "));
}

std::string progress_bar(const ProgressState& state, int columns) {
  struct Field {
    std::string text;
    int worth;  // the least worthy field goes first when the line is too long
  };
  std::vector<Field> fields{{fmt::format("{:3.0f}%", std::floor(100 * fraction_done(state))), 6},
                            {fmt::format("{}/{}", state.step, state.total), 7},
                            {named("loss", state.loss, "{:.4f}"), 5},
                            {depth_text(state), 3},
                            {std::isnan(state.tokens_per_second) ? "" : short_number(state.tokens_per_second) + " tok/s", 2},
                            {std::isnan(state.eta) ? "" : duration_text(state.eta) + " left", 4},
                            {named("lr", state.lr, "{:.2g}"), 1},
                            {named("grad", state.grad_norm, "{:.2f}"), 0}};
  std::erase_if(fields, [](const Field& field) { return field.text.empty(); });
  const auto width = [&] {
    int sum = 0;
    for (const Field& field : fields) sum += static_cast<int>(field.text.size()) + 2;
    return sum - 2;
  };
  constexpr int kFewestCells = 10, kMostCells = 40, kFrame = 3;  // two bars around the cells and a space
  const bool room_for_bar = columns >= 40;
  while (fields.size() > 1 && width() + (room_for_bar ? kFewestCells + kFrame : 0) > columns) {
    fields.erase(std::min_element(fields.begin(), fields.end(), [](const Field& a, const Field& b) { return a.worth < b.worth; }));
  }
  std::string text;
  if (const int cells = std::min(kMostCells, columns - width() - kFrame); room_for_bar && cells >= 1) {
    text = "▕" + bar_text(fraction_done(state), cells) + "▏ ";
  }
  for (std::size_t i = 0; i < fields.size(); ++i) text += (i == 0 ? "" : "  ") + fields[i].text;
  if (!room_for_bar && static_cast<int>(text.size()) > columns) text.resize(static_cast<std::size_t>(std::max(columns, 0)));
  return text;
}

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
