// What a changed depth attention source is tried on: a part is an instantiation (mutation.json), and its problems are those that it serves.
#include <cstdio>

#include "kernels/depth_attention/cases.h"
#include "kernels/depth_attention/refusals.h"
#include "kernels/depth_attention/run.h"
#include "kernels/depth_attention/work.h"
#include "kernels/mutation/driver.h"

namespace {

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

std::string of_kind(const char* kind, const std::string& text) { return text.empty() ? "" : std::string(kind) + ": " + text; }

std::string part_of(const DepthCase& one) {
  const int group = one.heads / one.kv_heads;
  if (group > 1) return group > 2 ? "4x1" : "2x1";
  return one.head_dim > 512 ? "1x4" : one.head_dim > 256 ? "1x2" : "1x1";
}

std::string depth_faults(const DepthCase& one) {
  DepthProblem problem(one);
  Grid::current().traffic.clear();
  Grid::current().work = {};
  run_depth(problem);
  const std::string wrong = check_depth(problem).wrong, work = compare_work(Grid::current().work, depth_work(one));
  if (!wrong.empty()) return of_kind("wrong", wrong);
  if (!work.empty()) return of_kind("work", work);
  return one.apart ? "" : check_traffic(problem);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  if (argv[1] == std::string("refusals"))
    return run_mutant({{"refusals", [] { return of_kind("refusal", wrong_depth_refusals()); }}}, argc, argv);
  auto cases = depth_cases();
  // Rows without gaps, whose bytes are counted.
  for (const auto& [heads, head_dim] : {std::pair{1, 64}, {2, 64}, {8, 64}, {1, 512}, {1, 1024}}) {
    cases.insert(cases.begin(), {"dense", 8, 2 * heads, 2, head_dim, 5, false, 1, 0, 0, false});
  }
  for (const DepthCase& one : random_depth_cases(10)) cases.push_back(one);
  std::vector<MutantProblem> problems;
  for (const DepthCase& one : cases) {
    if (part_of(one) == argv[1]) problems.push_back({one.name, [one] { return depth_faults(one); }});
  }
  return run_mutant(problems, argc, argv);
}
