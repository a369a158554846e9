// Runs one write at a time on a thread of its own, so that training waits for the copy of its state only.
#pragma once

#include <csignal>
#include <exception>
#include <functional>
#include <thread>
#include <utility>

namespace meristem {

// To be used from one thread.
class AsyncWriter {
 public:
  AsyncWriter() = default;
  // Finishes the write in flight; its error is lost: call wait() first.
  ~AsyncWriter() {
    if (thread_.joinable()) thread_.join();
  }
  AsyncWriter(const AsyncWriter&) = delete;
  AsyncWriter& operator=(const AsyncWriter&) = delete;

  // Waits for the write in flight, throws its error (then `job` is not started), else starts `job` and returns.
  void submit(std::function<void()> job) {
    wait();
    // A new thread inherits the mask: signals are for the training thread, which decides what to do about them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([this, job = std::move(job)] {
        try {
          job();
        } catch (...) {
          error_ = std::current_exception();
        }
      });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // Waits for the write in flight; throws its error, once.
  void wait() {
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::thread thread_;
  std::exception_ptr error_;
};

}  // namespace meristem
