#include "metrics/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/file.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

namespace {

ProgressState some_state(std::int64_t step) {
  ProgressState state;
  state.step = step;
  state.total = 1000;
  state.loss = 3.14159;
  state.lr = 3e-4;
  state.grad_norm = 0.5;
  state.tokens_per_second = 12345;
  state.blocks = 8;
  state.calls = 8;
  state.eta = 125;
  return state;
}

// Characters as a terminal counts them.
int display_width(const std::string& text) {
  int width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return width;
}

class Screen {
 public:
  Screen() : fd_(::open((folder_ / "out").c_str(), O_WRONLY | O_CREAT, 0644)) {}
  ~Screen() { ::close(fd_); }
  int fd() const { return fd_; }
  std::string text() const { return read_file(folder_ / "out"); }

 private:
  TempDir folder_;
  int fd_;
};

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("durations are short") {
  CHECK(duration_text(3.2) == "3s");
  CHECK(duration_text(125) == "2m05s");
  CHECK(duration_text(3720) == "1h02m");
  CHECK(duration_text(3 * 86400 + 4 * 3600) == "3d04h");
  CHECK(duration_text(std::nan("")) == "?");
  CHECK(duration_text(-1) == "?");
}

TEST_CASE("a plain line says all that is known and nothing that is not") {
  CHECK(progress_line(some_state(10)) == "step 10/1000  loss 3.1416  lr 0.0003  grad 0.5  8 blocks  12.3k tokens/s  2m05s left");
  ProgressState bare;
  bare.step = 1;
  bare.total = 2;
  CHECK(progress_line(bare) == "step 1/2");
  ProgressState packed = bare;
  packed.tokens_per_second = packed.real_tokens_per_second = 1000;
  packed.trained_tokens_per_second = 990;  // each document's first token is none
  CHECK(progress_line(packed) == "step 1/2  1.00k tokens/s");
  packed.trained_tokens_per_second = 200;
  CHECK(progress_line(packed) == "step 1/2  1.00k tokens/s (200 trained)");
  packed.real_tokens_per_second = 700;
  CHECK(progress_line(packed) == "step 1/2  1.00k tokens/s (700 real, 200 trained)");
  packed.trained_tokens_per_second = 690;
  CHECK(progress_line(packed) == "step 1/2  1.00k tokens/s (700 real)");
  ProgressState looped = bare;
  looped.blocks = 4;
  looped.calls = 24;
  CHECK(progress_line(looped) == "step 1/2  4 blocks, 24 calls");
}

TEST_CASE("the bar fits into any width and keeps what matters most") {
  for (int columns = 0; columns <= 300; ++columns) {
    for (const std::int64_t step : {0, 1, 333, 999, 1000}) CHECK(display_width(progress_bar(some_state(step), columns)) <= columns);
  }
  CHECK(progress_bar(some_state(500), 30).find("500/1000") != std::string::npos);
  CHECK(progress_bar(some_state(500), 60).find("loss 3.1416") != std::string::npos);
  CHECK(progress_bar(some_state(500), 160).find("grad 0.50") != std::string::npos);
  CHECK(progress_bar(some_state(500), 80).find("grad") == std::string::npos);
  CHECK(count(progress_bar(some_state(0), 120), "█") == 0);
}

TEST_CASE("in a pipe: lines at the given steps and at the last, no control characters") {
  Screen screen;
  ProgressOptions options;
  options.fd = screen.fd();
  options.plain_every = 10;
  {
    Progress progress(options);
    CHECK_FALSE(progress.is_bar());
    for (std::int64_t step = 1; step <= 25; ++step) {
      ProgressState state = some_state(step);
      state.total = 25;
      progress.update(state);
    }
    progress.note("grown 4 -> 8 blocks");
  }
  const std::string text = screen.text();
  CHECK(count(text, "\n") == 4);
  CHECK(text.find("step 10/25") == 0);
  CHECK(text.find("\nstep 25/25") != std::string::npos);
  CHECK(text.find("grown 4 -> 8 blocks\n") != std::string::npos);
  CHECK(text.find_first_of("\r\033") == std::string::npos);
}

TEST_CASE("on a terminal: at most ten redraws a second, notes above the bar, the last state stays") {
  Screen screen;
  double now = 100;
  ProgressOptions options;
  options.fd = screen.fd();
  options.mode = ProgressOptions::Mode::kBar;
  options.columns = 100;
  options.clock = [&now] { return now; };
  {
    Progress progress(options);
    for (std::int64_t step = 1; step <= 1000; ++step) {
      now += 0.001;
      progress.update(some_state(step));
    }
    CHECK(count(screen.text(), "\r\033[K") <= 11);
    CHECK(count(screen.text(), "\r\033[K") >= 9);
    progress.note("checkpoint written");
    CHECK(screen.text().find("\r\033[Kcheckpoint written\n▕") != std::string::npos);
  }
  CHECK(screen.text().find("1000/1000") != std::string::npos);
  CHECK(screen.text().back() == '\n');
}

TEST_CASE("a terminal is recognised, and its width obeyed while it changes") {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  REQUIRE(master >= 0);
  REQUIRE((::grantpt(master) == 0 && ::unlockpt(master) == 0));
  const int terminal = ::open(::ptsname(master), O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  ::setenv("TERM", "xterm", 1);
  const auto shown = [&](Progress& progress, unsigned short columns) {
    struct winsize size {};
    size.ws_col = columns;
    ::ioctl(terminal, TIOCSWINSZ, &size);
    progress.update(some_state(500));
    std::string text(4096, '\0');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(master, text.data(), text.size()))));
    return text.substr(std::min(text.size(), std::string("\r\033[K").size()));
  };
  ProgressOptions options;
  options.fd = terminal;
  options.redraw_seconds = 0;
  {
    Progress progress(options);
    CHECK(progress.is_bar());
    CHECK(shown(progress, 121) == progress_bar(some_state(500), 120));
    CHECK(shown(progress, 41) == progress_bar(some_state(500), 40));
    CHECK(shown(progress, 0) == progress_bar(some_state(500), 79));
  }
  ::setenv("TERM", "dumb", 1);
  CHECK_FALSE(Progress(options).is_bar());
  ::close(terminal);
  ::close(master);
}

TEST_CASE("an output that is closed does not end the run") {
  ProgressOptions options;
  options.fd = -1;
  Progress progress(options);
  progress.update(some_state(1));
  progress.note("still here");
  CHECK_FALSE(progress.is_bar());
}
