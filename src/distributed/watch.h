// A thread that says every second that this rank is alive, and listens for the others. Rank 0 listens for all of them and says who is
// silent; all ranks end the process where somebody failed, somebody is silent, or the store itself does not answer.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Store;
}

namespace meristem {

class Watch {
 public:
  // `store`: a connection that nobody else uses. places: "host, process 123" by rank.
  Watch(c10::intrusive_ptr<c10d::Store> store, int rank, std::vector<std::string> places, double silence_seconds);
  ~Watch();  // stops listening

  // Why this process is about to end, once the watch knows; empty before. The store may be gone by then.
  std::string reason() const;

  // Says to all why this rank ends; the first one to say so is believed.
  static void post_failure(c10d::Store& store, int rank, const std::string& reason);
  // "rank 2 failed: REASON", or empty while nobody did.
  static std::string failure(c10d::Store& store, int rank);
  // Ranks whose sign of life does not change within a few seconds, as "rank 2 (host, process 123)".
  static std::vector<std::string> silent(c10d::Store& store, int rank, const std::vector<std::string>& places);

 private:
  void listen();
  void guard();
  void beat();
  void look_after_others();
  void set_reason(const std::string& why);
  [[noreturn]] void end(const std::string& why) const;

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
  mutable std::mutex mutex_;
  std::string trouble_;  // what its last failure was
  std::string reason_;
  std::thread listener_, guard_;
};

}  // namespace meristem
