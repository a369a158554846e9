// One program for one version of a dense kernel's source: solves its problems and says, in the first word of its first line, what it found.
// planted.py compiles it with a fault in the source.
#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include "kernels/dense/cpu_memory.h"

namespace meristem::test {

// faults(case): empty, or what is wrong with the results. Returns the program's exit code.
template <class Cases, class Faults>
int find_faults(const Cases& cases, const Faults& faults) {
  std::uint32_t seed = 0;
  for (const auto& one : cases) {
    try {
      kernels::device::host::Grid::current().settings.seed = seed++ % 3;
      if (const std::string found = faults(one); !found.empty()) {
        std::printf("wrong: %s: %s\n", one.name.c_str(), found.c_str());
        return 1;
      }
    } catch (const kernels::device::host::Report& report) {
      static constexpr const char* kKinds[] = {"race", "in flight", "bounds", "misaligned", "divergence", "deadlock"};
      std::printf("%s: %s: %s\n", kKinds[static_cast<int>(report.fault)], one.name.c_str(), report.what());
      return 1;
    } catch (const std::exception& error) {
      std::printf("refused: %s: %s\n", one.name.c_str(), error.what());
      return 1;
    }
  }
  for (const auto& [line, traffic] : kernels::device::host::by_line(kernels::device::host::Grid::current().traffic)) {
    if (traffic.bank_conflicts == 0) continue;
    std::printf("bank conflicts: %s\n", line.c_str());
    return 1;
  }
  std::puts("sound");
  return 0;
}

}  // namespace meristem::test
