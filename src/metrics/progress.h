// What a person sees of a run: a bar that is redrawn on a terminal, plain lines in a pipe or a log file.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

namespace meristem {

// NaN: not known, left out.
struct ProgressState {
  std::int64_t step = 0, total = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();
  double lr = std::numeric_limits<double>::quiet_NaN();
  double grad_norm = std::numeric_limits<double>::quiet_NaN();
  double tokens_per_second = std::numeric_limits<double>::quiet_NaN();  // input positions, padding among them
  double real_tokens_per_second = std::numeric_limits<double>::quiet_NaN(), trained_tokens_per_second = real_tokens_per_second;
  std::int64_t blocks = 0, calls = 0;                     // unique blocks; block calls a token passes through
  double eta = std::numeric_limits<double>::quiet_NaN();  // seconds left
};

struct ProgressOptions {
  int fd = 2;
  enum class Mode { kAuto, kBar, kPlain } mode = Mode::kAuto;  // auto: a bar where fd is a terminal that can move the cursor
  std::int64_t plain_every = 1;                                // plain: a line every so many steps, and at the last
  double redraw_seconds = 0.1;                                 // bar: at most one redraw in this time
  int columns = 0;                                             // 0: ask the terminal, 80 where it does not say
  std::function<double()> clock;                               // seconds, monotonic; empty: the steady clock
};

class Progress {
 public:
  explicit Progress(ProgressOptions options = {});
  ~Progress();  // finish()
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const ProgressState& state);  // cheap enough for every step
  void note(const std::string& message);    // a whole line of its own, above the bar
  void finish();                            // leaves the last state on the screen and ends its line
  bool is_bar() const { return bar_; }

 private:
  ProgressOptions options_;
  bool bar_ = false;
  bool drawn_ = false;  // a bar stands on the screen
  bool shown_ = true;   // the newest state has been written
  double last_draw_ = 0;
  ProgressState state_;

  int columns() const;
  void draw();
  void write(const std::string& text);
};

// The two forms, without a newline. The bar fits into `columns` characters and drops its least important fields first.
std::string progress_line(const ProgressState& state);
std::string progress_bar(const ProgressState& state, int columns);

// "3s", "2m05s", "1h02m", "3d04h"; "?" for what is not finite or negative.
std::string duration_text(double seconds);

}  // namespace meristem
