// What the tests on the CPU layer share: memory, a kernel's problems, how one is judged, and what is refused. A kernel lists its problems
// once; its test, the faults planted in its source and the mutants drawn from it all solve the same ones.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "device/layer.h"
#include "kernels/values.h"

namespace meristem::test {

namespace dev = kernels::device;
using dev::host::Grid;
using dev::host::Work;

struct CpuMemory {
  template <class T>
  using Array = dev::host::Array<T>;
  static void finish() {}
};
template <class T>
using CpuArray = CpuMemory::Array<T>;

// As long as it lives, launches are chosen as on that device.
class On {
 public:
  explicit On(const dev::Limits& device) : before_(std::exchange(Grid::current().settings.limits, device)) {}
  ~On() { Grid::current().settings.limits = before_; }
  On(const On&) = delete;
  On& operator=(const On&) = delete;

 private:
  dev::Limits before_;
};

struct Problem {
  std::string name;
  std::function<std::string()> faults;  // "KIND: what", for instance "wrong: ..."; empty: nothing. May throw the layer's Report.
};

// What mutation.json lists as a part: problems that need the same sources. A part that it does not list belongs to the test alone.
struct Part {
  std::string name;
  std::vector<Problem> problems;
};

// Each kernel's program defines this.
std::vector<Part> parts();

// The largest error of all problems, in units of the same-precision reference's; for the programs to print.
inline double worst_error = 0;

inline std::string of_kind(const char* kind, const std::string& text) { return text.empty() ? "" : std::string(kind) + ": " + text; }

// What a problem needs. More than that gives the right result too: an element that two threads write, a block with nothing to do, memory
// that nobody touches, work on what is hidden.
inline constexpr std::int64_t kNotCounted = -1;  // in place of exchanges

inline std::string text_of(const Work& work) {
  return std::to_string(work.blocks) + " blocks, " + std::to_string(work.products) + " products, " + std::to_string(work.copies) +
         " copies, " + std::to_string(work.barriers) + " barriers of warps, " + std::to_string(work.stored) + " bytes stored, " +
         std::to_string(work.exchanges) + " exchanges, " + std::to_string(work.shared) + " bytes of shared memory, " +
         std::to_string(work.added) + " bytes added";
}
inline Work operator+(const Work& a, const Work& b) {
  return {a.blocks + b.blocks, a.products + b.products,   a.copies + b.copies, a.barriers + b.barriers,
          a.stored + b.stored, a.exchanges + b.exchanges, a.shared + b.shared, a.added + b.added};
}
// As the dense kernels need it: no product, no copy.
inline Work row_work(std::int64_t blocks, std::int64_t barriers, std::int64_t stored, std::int64_t shared) {
  return {blocks, 0, 0, barriers, stored, kNotCounted, shared, 0};
}
// Empty where `done` is what was needed.
inline std::string wrong_work(Work done, const Work& needed) {
  if (needed.exchanges < 0) done.exchanges = needed.exchanges;
  return done == needed ? "" : text_of(done) + "; needed: " + text_of(needed);
}

inline std::string bank_conflicts() {
  for (const auto& [line, traffic] : dev::host::by_line(Grid::current().traffic)) {
    if (traffic.bank_conflicts > 0) return std::to_string(traffic.bank_conflicts) + " at " + line;
  }
  return "";
}

// Solves a problem in the schedule `seed`. `faults` says what is wrong with the results; where that is nothing: whether the work was what
// the problem needs, and, where conflicts are a fault of the kernel's, whether shared memory was free of them.
template <class Faults>
std::string judged(std::uint32_t seed, const Work& needed, const Faults& faults, bool conflicts_count = true) {
  Grid& grid = Grid::current();
  grid.settings.seed = seed;
  grid.traffic.clear();
  grid.work = {};
  const std::string wrong = faults();
  grid.settings.seed = 0;
  if (!wrong.empty()) return of_kind("wrong", wrong);
  if (const std::string work = wrong_work(grid.work, needed); !work.empty()) return of_kind("work", work);
  return conflicts_count ? of_kind("bank conflicts", bank_conflicts()) : "";
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

// Global accesses of warps and the 32-byte sectors they touched, loads and stores, since the last problem began.
struct Moved {
  std::int64_t accesses = 0, sectors = 0;
};
inline Moved moved() {
  Moved found;
  for (const auto& [line, traffic] : dev::host::by_line(Grid::current().traffic)) {
    found.accesses += traffic.global_accesses;
    found.sectors += traffic.sectors;
  }
  return found;
}
inline std::string wrong_traffic(const Moved& needed) {
  const Moved found = moved();
  if (found.accesses == needed.accesses && found.sectors == needed.sectors) return "";
  return "bytes: " + std::to_string(found.accesses) + " accesses of " + std::to_string(found.sectors) + " sectors, " +
         std::to_string(needed.accesses) + " of " + std::to_string(needed.sectors) + " needed";
}
// Where single numbers take a sector each at most: the bytes of whole sectors.
inline std::string wrong_bytes(std::int64_t needed, std::int64_t most) {
  const std::int64_t found = 32 * moved().sectors;
  if (found >= needed && found <= most) return "";
  return "bytes: " + std::to_string(found) + " moved, " + std::to_string(needed) + " to " + std::to_string(most) + " needed";
}

// The message of the std::invalid_argument that call() throws; empty where it throws none.
template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}
// Empty where call() is refused with a message that holds `part`.
template <class Call>
std::string not_refused(const std::string& part, const Call& call) {
  const std::string refusal = refusal_of(call);
  if (refusal.empty()) return part + ": is not refused";
  return refusal.find(part) != std::string::npos ? "" : part + ": refused with \"" + refusal + "\"";
}

// Runs a piece of device code, and says which fault a check found.
inline void on_cpu(int threads, int shared_bytes, const std::function<void()>& body, dev::host::Settings settings = {}) {
  Grid& grid = Grid::current();
  grid.settings = settings;
  grid.run(1, threads, shared_bytes, body);
}
struct Found {
  std::optional<dev::host::Fault> fault;
  std::string text;
};
inline Found found_by(int threads, int shared_bytes, const std::function<void()>& body, dev::host::Settings settings = {}) {
  try {
    on_cpu(threads, shared_bytes, body, settings);
    return {};
  } catch (const dev::host::Report& report) {
    return {report.fault, report.what()};
  }
}

}  // namespace meristem::test
