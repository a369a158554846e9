// Ranks as threads of one process, over a real store and real Gloo on the loopback.
#pragma once

#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "distributed/ranks.h"

namespace meristem::test {

// A port that nobody listens on at the moment.
inline std::uint16_t free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ::ntohs(address.sin_port);
}

// Catch's own checks may not run in several threads at once: this one throws, and as_ranks hands it on.
#define RANK_CHECK(...)                                                                                                       \
  do {                                                                                                                        \
    if (!(__VA_ARGS__)) throw std::logic_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " + #__VA_ARGS__); \
  } while (false)

// Torch's flight recorder is one for the process and has no lock: groups of several threads tear it. Ranks proper are processes.
// Its store asks the resolver for the name of whoever connects, five seconds at a time where none answers.
inline const int kEnvironmentOfThreads = ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1) + ::setenv("RES_OPTIONS", "timeout:1 attempts:1", 1);

// Runs body(ranks) once a rank, each in a thread of its own; then rethrows what the lowest rank threw. leaves: false where one of them
// fails.
inline void as_ranks(int count, const std::function<void(std::shared_ptr<Ranks>)>& body, ParallelConfig config = {}, bool leaves = true) {
  config.timeout_seconds = 60;
  const std::uint16_t port = free_port();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const std::shared_ptr<Ranks> ranks = Ranks::join({rank, count, rank, "127.0.0.1", port, false, 0}, at::kCPU, config);
        body(ranks);
        if (leaves) ranks->leave();
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace meristem::test
