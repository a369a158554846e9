// What a changed depth attention source is tried on: a part is a pass of an instantiation (mutation.json), and its
// problems are those that it serves.
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

std::string instantiation_of(const DepthCase& one) {
  const int group = one.heads / one.kv_heads;
  if (group > 1) return group > 2 ? "4x1" : "2x1";
  return one.head_dim > 512 ? "1x4" : one.head_dim > 256 ? "1x2" : "1x1";
}

// The backward kernel starts from the reference's output, so that its part needs no other kernel.
std::string depth_faults(const DepthCase& one, bool backward) {
  DepthProblem problem(one);
  const DepthResult truth = DepthReference<double>(problem).result(), same = DepthReference<float>(problem).result();
  if (backward) {
    for (int n = 0; n < one.tokens; ++n) {
      for (int c = 0; c < problem.out.columns; ++c)
        problem.out.words[problem.out.at(n, c)] = bf16_bits(same.out[problem.out_before.at(n, c)]);
    }
    for (std::size_t i = 0; i < same.log_sum_exp.size(); ++i) problem.log_sum_exp[i] = static_cast<float>(same.log_sum_exp[i]);
  }
  Grid::current().settings.shared_limit = 0;
  Grid::current().traffic.clear();
  Grid::current().work = {};
  Verdict verdict;
  if (backward) {
    run_depth_backward(problem);
    check_depth_backward(verdict, problem, truth, same);
  } else {
    run_depth_forward(problem);
    check_depth_forward(verdict, problem, truth, same);
  }
  if (!verdict.wrong.empty()) return of_kind("wrong", verdict.wrong);
  const std::string work = compare_work(Grid::current().work, depth_work(one, backward));
  if (!work.empty()) return of_kind("work", work);
  return one.apart ? "" : check_traffic(problem, backward);
}

std::vector<MutantProblem> problems_of(const std::string& part) {
  if (part == "refusals") return {{part, [] { return of_kind("refusal", wrong_depth_refusals()); }}};
  auto cases = depth_cases();
  // Rows without gaps, whose bytes are counted.
  for (const auto& [heads, head_dim] : {std::pair{1, 64}, {2, 64}, {8, 64}, {1, 512}, {1, 1024}}) {
    cases.insert(cases.begin(), {"dense", 8, 2 * heads, 2, head_dim, 5, false, 1, 0, 0, false});
  }
  for (const DepthCase& one : random_depth_cases(10)) cases.push_back(one);
  const bool backward = part.rfind("backward", 0) == 0;
  std::vector<MutantProblem> problems;
  for (const DepthCase& one : cases) {
    if (part == (backward ? "backward " : "forward ") + instantiation_of(one))
      problems.push_back({one.name, [one, backward] { return depth_faults(one, backward); }});
  }
  return problems;
}

}  // namespace

int main(int argc, char** argv) { return argc < 3 ? 2 : run_mutant(problems_of(argv[1]), argc, argv); }
