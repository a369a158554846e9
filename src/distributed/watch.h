// A thread that says every second that this rank is alive, and listens for the others. Rank 0 listens for all of them and says who is
// silent; all ranks end the process where somebody failed, somebody is silent, or the store itself does not answer.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <c10/util/intrusive_ptr.h>

#include "core/errors.h"

namespace c10d {
class Store;
}

namespace meristem {

class Watch {
 public:
  // Why all ranks end: "rank 2 failed: REASON", and the exit code of all.
  struct Failure {
    std::string why;
    ExitCode code;
  };

  // `store`: a connection that nobody else uses. places: "host, process 123" by rank.
  Watch(c10::intrusive_ptr<c10d::Store> store, int rank, std::vector<std::string> places, double silence_seconds);
  ~Watch();  // stops listening

  // Says to all why this rank ends; the first one to say so is believed.
  static void post_failure(c10d::Store& store, int rank, const std::string& reason, ExitCode code);
  // What another rank has said; empty while nobody did.
  static std::optional<Failure> failure(c10d::Store& store, int rank);
  // Ranks whose sign of life does not change within a few seconds, as "rank 2 (host, process 123)".
  static std::vector<std::string> silent(c10d::Store& store, int rank, const std::vector<std::string>& places);

 private:
  void listen();
  void guard();
  void beat();
  void look_after_others();
  [[noreturn]] void end(const Failure& failure) const;

  c10::intrusive_ptr<c10d::Store> store_;
  int rank_;
  std::vector<std::string> places_;
  double silence_seconds_;
  struct Heard {
    std::int64_t beats = 0;
    double at = 0;  // seconds
  };
  std::vector<Heard> heard_;
  std::atomic<bool> stop_{false};
  std::atomic<double> answered_;  // when the store last did
  std::thread listener_, guard_;
};

}  // namespace meristem
