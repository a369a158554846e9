// What the dense kernels' tests on the CPU layer share: their problems are listed once, for the tests and for the program of a mutant.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/layer.h"
#include "meristem_kernels/element.h"

namespace meristem::test {

using kernels::device::host::Grid;
using kernels::device::host::Work;

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

inline Work operator+(const Work& a, const Work& b) {
  return {a.blocks + b.blocks, a.products + b.products, a.copies + b.copies, a.barriers + b.barriers, a.stored + b.stored};
}
inline Work operator*(int times, const Work& a) {
  return {times * a.blocks, times * a.products, times * a.copies, times * a.barriers, times * a.stored};
}
inline Work work_of(std::int64_t blocks, std::int64_t barriers, std::int64_t stored) { return {blocks, 0, 0, barriers, stored}; }

inline std::string text_of(const Work& work) {
  return std::to_string(work.blocks) + " blocks, " + std::to_string(work.barriers) + " barriers of warps, " + std::to_string(work.stored) +
         " bytes stored";
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
// the problem needs (an element that two threads write gives the right result), and whether shared memory was free of conflicts.
template <class Faults>
std::string judged(std::uint32_t seed, const Work& needed, const Faults& faults) {
  Grid& grid = Grid::current();
  grid.settings.seed = seed;
  grid.traffic.clear();
  grid.work = {};
  const std::string wrong = faults();
  grid.settings.seed = 0;
  if (!wrong.empty()) return "wrong: " + wrong;
  if (!(grid.work == needed)) return "work: " + text_of(grid.work) + "; needed: " + text_of(needed);
  for (const auto& [line, traffic] : kernels::device::host::by_line(grid.traffic)) {
    if (traffic.bank_conflicts > 0) return "bank conflicts: " + std::to_string(traffic.bank_conflicts) + " at " + line;
  }
  return "";
}

// Whether two runs in different schedules leave the same bits. bits(): runs and gives them.
template <class Bits>
std::string same_in_two_schedules(const Work& needed, const Bits& bits) {
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
  try {
    call();
  } catch (const std::invalid_argument&) {
    return "";
  }
  return "refusal: wrong arguments are taken";
}

}  // namespace meristem::test
