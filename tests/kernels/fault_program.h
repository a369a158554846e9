// The program for one version of a kernel's source: solves problems until one goes wrong and prints what kind of fault that is. planted.py
// compiles it with a fault in the source.
#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include "device/layer.h"

namespace meristem::test {

// solve(case): what is wrong, "" if nothing. Prints "sound", or "KIND: case: what"; returns main's exit code.
template <class Cases, class Solve>
int solve_all(const Cases& cases, const Solve& solve) {
  for (const auto& one : cases) {
    std::string found;
    try {
      found = solve(one);
      if (!found.empty()) found = (found.rfind("bytes", 0) == 0 ? "wrong in " : "wrong: ") + found + " (" + one.name + ")";
    } catch (const kernels::device::host::Report& report) {
      static constexpr const char* kKinds[] = {"race", "in flight", "bounds", "misaligned", "divergence", "deadlock"};
      found = std::string(kKinds[static_cast<int>(report.fault)]) + ": " + one.name + ": " + report.what();
    } catch (const std::exception& error) {
      found = "refused: " + one.name + ": " + error.what();
    }
    if (found.empty()) continue;
    std::puts(found.c_str());
    return 1;
  }
  std::puts("sound");
  return 0;
}

}  // namespace meristem::test
