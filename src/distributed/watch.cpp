#include "distributed/watch.h"

#include <chrono>
#include <csignal>
#include <cstdio>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "core/clock.h"

namespace meristem {
namespace {

using namespace std::chrono_literals;

constexpr const char* kFailed = "failed";
constexpr std::chrono::milliseconds kBeat = 1s;  // not in seconds: a tenth of it would be none
constexpr double kGraceSeconds = 3;              // for this rank's own account of the same failure

std::string beat_key(int rank) { return fmt::format("beat/{}", rank); }

// Threads of the watch take no signals: those are for the training thread.
template <class Body>
std::thread quiet_thread(Body body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(body);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

std::string named(const std::vector<std::string>& places, int rank) {
  return fmt::format("rank {} ({})", rank, places.at(static_cast<std::size_t>(rank)));
}

}  // namespace

Watch::Watch(c10::intrusive_ptr<c10d::Store> store, int rank, std::vector<std::string> places, double silence_seconds)
    : store_(std::move(store)),
      rank_(rank),
      places_(std::move(places)),
      silence_seconds_(silence_seconds),
      heard_(places_.size(), {0, seconds_now()}),
      answered_(seconds_now()) {
  listener_ = quiet_thread([this] { listen(); });
  guard_ = quiet_thread([this] { guard(); });
}

Watch::~Watch() {
  stop_ = true;
  guard_.join();
  listener_.join();
}

std::string Watch::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void Watch::set_reason(const std::string& why) {
  const std::lock_guard lock(mutex_);
  reason_ = why;
}

void Watch::post_failure(c10d::Store& store, int rank, const std::string& reason) {
  store.compareSet(kFailed, "", fmt::format("{} {}", rank, reason));
}

std::string Watch::failure(c10d::Store& store, int rank) {
  if (!store.check({kFailed})) return "";
  const std::string text = store.get_to_str(kFailed);
  const auto blank = text.find(' ');
  const std::string who = text.substr(0, blank), reason = text.substr(blank + 1);
  if (who == std::to_string(rank)) return "";
  return who == "-1" ? reason : fmt::format("rank {} failed: {}", who, reason);
}

std::vector<std::string> Watch::silent(c10d::Store& store, int rank, const std::vector<std::string>& places) {
  const auto beats = [&] {
    std::vector<std::int64_t> counts;
    for (int other = 0; other < static_cast<int>(places.size()); ++other) counts.push_back(store.add(beat_key(other), 0));
    return counts;
  };
  const std::vector<std::int64_t> before = beats();
  std::this_thread::sleep_for(3 * kBeat);
  const std::vector<std::int64_t> after = beats();
  std::vector<std::string> silent;
  for (std::size_t other = 0; other < places.size(); ++other) {
    if (static_cast<int>(other) != rank && before[other] == after[other]) silent.push_back(named(places, static_cast<int>(other)));
  }
  return silent;
}

void Watch::listen() {
  while (!stop_) {
    try {
      beat();
      answered_ = seconds_now();
    } catch (const std::exception& error) {  // the guard counts how long the store has not answered
      const std::string text = error.what();
      const std::lock_guard lock(mutex_);
      trouble_ = text.substr(0, text.find('\n'));
    }
    for (int i = 0; i < 10 && !stop_; ++i) std::this_thread::sleep_for(kBeat / 10);
  }
}

void Watch::beat() {
  store_->add(beat_key(rank_), 1);
  look_after_others();
  const std::string why = failure(*store_, rank_);
  if (why.empty()) return;
  set_reason(why);
  std::this_thread::sleep_for(std::chrono::duration<double>(kGraceSeconds));
  if (!stop_) end(why);
}

// Rank 0 looks after all, the others after rank 0: a thousand ranks ask the store two thousand times a second.
void Watch::look_after_others() {
  const int others = rank_ == 0 ? static_cast<int>(places_.size()) : 1;
  for (int other = 0; other < others; ++other) {
    if (other == rank_) continue;
    const std::int64_t beats = store_->add(beat_key(other), 0);
    Heard& heard = heard_[static_cast<std::size_t>(other)];
    if (beats != heard.beats) heard = {beats, seconds_now()};
    if (seconds_now() - heard.at < silence_seconds_) continue;
    const std::string why = fmt::format("{} has not been heard of for {:.0f} s", named(places_, other), silence_seconds_);
    set_reason(why);
    post_failure(*store_, -1, why);
    std::this_thread::sleep_for(3 * kBeat);  // rank 0 may serve the store: the others have to hear of it first
    end(why);
  }
}

void Watch::guard() {
  while (!stop_) {
    std::this_thread::sleep_for(kBeat / 10);
    if (stop_ || !reason().empty() || seconds_now() - answered_ < silence_seconds_) continue;
    std::unique_lock lock(mutex_);
    const std::string trouble = trouble_.empty() ? "" : fmt::format(" ({})", trouble_);
    lock.unlock();
    end(fmt::format("the store on the machine of {} has not answered for {:.0f} s{}", named(places_, 0), silence_seconds_, trouble));
  }
}

// At once: whatever the training thread waits for will not come, and no collective may be issued any more.
void Watch::end(const std::string& why) const {
  std::thread([] {  // whoever reads the terminal or the pipe may have stopped reading
    std::this_thread::sleep_for(2s);
    ::_exit(1);
  })
      .detach();
  const std::string line = fmt::format("meristem: error: {}{}\n", rank_ > 0 ? fmt::format("[rank {}] ", rank_) : "", why);
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  ::_exit(1);
}

}  // namespace meristem
