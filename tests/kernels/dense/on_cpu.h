// What the dense kernels' tests on the CPU layer share: their problems are listed once, for the tests and for the program of a mutant.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device/layer.h"
#include "kernels/refused.h"
#include "meristem_kernels/device.h"

namespace meristem::test {

using kernels::device::host::Grid;

struct CpuMemory {
  template <class T>
  using Array = kernels::device::host::Array<T>;
  static constexpr bool kOnGpu = false;
  static void finish() {}
};

// The kernels' name for the element type X.
template <class X>
constexpr kernels::Element kElement = sizeof(X) == 4 ? kernels::Element::kFloat : kernels::Element::kBf16;

struct DenseProblem {
  std::string name;
  std::function<std::string()> faults;  // "KIND: what", for instance "wrong: ..."; empty: nothing
};

// What a problem needs: blocks, barriers of warps, bytes stored, and the shared memory that a block of each launch asks for. More than that
// gives the right result too: an element that two threads write, a block with nothing to do, memory that nobody touches.
struct DenseWork {
  std::int64_t blocks = 0, barriers = 0, stored = 0, shared = 0;
  friend bool operator==(const DenseWork&, const DenseWork&) = default;
  friend DenseWork operator+(const DenseWork& a, const DenseWork& b) {
    return {a.blocks + b.blocks, a.barriers + b.barriers, a.stored + b.stored, a.shared + b.shared};
  }
};

inline std::string text_of(const DenseWork& work) {
  return std::to_string(work.blocks) + " blocks, " + std::to_string(work.barriers) + " barriers of warps, " + std::to_string(work.stored) +
         " bytes stored, " + std::to_string(work.shared) + " bytes of shared memory";
}

// Global accesses of warps and the 32-byte sectors they touched, loads and stores, since the last problem began.
struct Moved {
  std::int64_t accesses = 0, sectors = 0;
};
inline std::string wrong_traffic(const Moved& needed) {
  Moved found;
  for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
    found.accesses += traffic.global_accesses;
    found.sectors += traffic.sectors;
  }
  if (found.accesses == needed.accesses && found.sectors == needed.sectors) return "";
  return "bytes: " + std::to_string(found.accesses) + " accesses of " + std::to_string(found.sectors) + " sectors, " +
         std::to_string(needed.accesses) + " of " + std::to_string(needed.sectors) + " needed";
}

// Solves a problem in the schedule `seed`. `faults` says what is wrong with the results; where that is nothing: whether the work was what
// the problem needs, and whether shared memory was free of conflicts.
template <class Faults>
std::string judged(std::uint32_t seed, const DenseWork& needed, const Faults& faults) {
  Grid& grid = Grid::current();
  grid.settings.seed = seed;
  grid.traffic.clear();
  grid.work = {};
  grid.shared_bytes = 0;
  const std::string wrong = faults();
  grid.settings.seed = 0;
  if (!wrong.empty()) return "wrong: " + wrong;
  const DenseWork done{grid.work.blocks, grid.work.barriers, grid.work.stored, grid.shared_bytes};
  if (!(done == needed)) return "work: " + text_of(done) + "; needed: " + text_of(needed);
  for (const auto& [line, traffic] : kernels::device::host::by_line(grid.traffic)) {
    if (traffic.bank_conflicts > 0) return "bank conflicts: " + std::to_string(traffic.bank_conflicts) + " at " + line;
  }
  return "";
}

// Whether two runs in different schedules leave the same bits. bits(): runs and gives them.
template <class Bits>
std::string same_in_two_schedules(const DenseWork& needed, const Bits& bits) {
  std::vector<double> first;
  const std::string wrong = judged(0, needed, [&] {
    first = bits();
    return std::string();
  });
  if (!wrong.empty()) return wrong;
  return judged(5, needed, [&] { return first == bits() ? "" : "other bits in another schedule"; });
}

// Whether call() refuses its arguments.
template <class Call>
std::string not_refused(const Call& call) {
  return refusal_of(call).empty() ? "refusal: wrong arguments are taken" : "";
}

}  // namespace meristem::test
