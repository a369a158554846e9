// Runs one write at a time on a thread of its own, so that training waits for the copy of its state only.
#pragma once

#include <exception>
#include <functional>
#include <thread>

namespace meristem {

// To be used from one thread.
class AsyncWriter {
 public:
  AsyncWriter() = default;
  ~AsyncWriter();  // finishes the write in flight; its error is lost: call wait() first
  AsyncWriter(const AsyncWriter&) = delete;
  AsyncWriter& operator=(const AsyncWriter&) = delete;

  // Waits for the write in flight, throws its error (then `job` is not started), else starts `job` and returns.
  void submit(std::function<void()> job);
  // Waits for the write in flight; throws its error, once.
  void wait();

 private:
  std::thread thread_;
  std::exception_ptr error_;
};

}  // namespace meristem
