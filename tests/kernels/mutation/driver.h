// The main program of a mutant: solves a kernel's problems one after the other and prints the first fault that it finds. mutate.py links it
// with the changed kernel.
//
//     PROGRAM PART LIMIT [NUMBER...]      the problems of one part; those with the numbers first; LIMIT: CPU seconds of one problem
//
// Prints "KIND: NUMBER: NAME: what" and returns 1, or "sound" and the slowest problem's seconds.
#pragma once

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "device/host/grid.h"

namespace meristem::test {

struct MutantProblem {
  std::string name;
  std::function<std::string()> faults;  // "KIND: what", for instance "wrong: ..."; empty: nothing. May throw.
};

namespace mutation {

inline char running[160];  // what the signal's handler says

inline void out_of_time(int) {
  const std::string_view text(running);
  if (write(STDOUT_FILENO, text.data(), text.size()) < 0) std::_Exit(2);
  std::_Exit(1);
}

// A change may well loop for ever, or ask for all of the memory.
inline void limit(double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  const itimerval timer{{0, 0}, {whole, static_cast<suseconds_t>((seconds - static_cast<double>(whole)) * 1e6)}};
  std::signal(SIGVTALRM, out_of_time);
  setitimer(ITIMER_VIRTUAL, &timer, nullptr);
}

inline std::string conflicts() {
  std::string found;
  for (const auto& [line, traffic] : kernels::device::host::by_line(kernels::device::host::Grid::current().traffic)) {
    if (traffic.bank_conflicts > 0) found += " " + std::to_string(traffic.bank_conflicts) + " at " + line;
  }
  return found.empty() ? "" : "bank conflicts:" + found;
}

inline std::string solve(const MutantProblem& problem) {
  static constexpr const char* kKinds[] = {"race", "in flight", "bounds", "misaligned", "divergence", "deadlock"};
  try {
    const std::string found = problem.faults();
    return found.empty() ? conflicts() : found;
  } catch (const kernels::device::host::Report& report) {
    return std::string(kKinds[static_cast<int>(report.fault)]) + ": " + report.what();
  } catch (const std::exception& error) {
    return std::string("refused: ") + error.what();
  }
}

}  // namespace mutation

inline int run_mutant(const std::vector<MutantProblem>& problems, int argc, char** argv) {
  const rlimit memory{std::size_t{4} << 30, std::size_t{4} << 30};
  setrlimit(RLIMIT_AS, &memory);
  std::vector<std::size_t> order;
  for (int i = 3; i < argc; ++i) order.push_back(std::stoul(argv[i]));
  for (std::size_t i = 0; i < problems.size(); ++i) order.push_back(i);
  std::vector<bool> done(problems.size());
  double slowest = 0;
  for (const std::size_t i : order) {
    if (done.at(i)) continue;
    done[i] = true;
    const std::string place = std::to_string(i) + ": " + problems[i].name;
    std::snprintf(mutation::running, sizeof mutation::running, "time: %s: over the limit\n", place.c_str());
    mutation::limit(std::stod(argv[2]));
    const std::clock_t begin = std::clock();
    const std::string found = mutation::solve(problems[i]);
    slowest = std::max(slowest, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
    mutation::limit(0);
    if (found.empty()) continue;
    const std::size_t colon = found.find(':');
    std::printf("%s: %s:%s\n", found.substr(0, colon).c_str(), place.c_str(), found.substr(colon + 1).c_str());
    return 1;
  }
  std::printf("sound\n%.3f\n", slowest);
  return 0;
}

}  // namespace meristem::test
