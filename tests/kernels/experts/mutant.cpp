// What a changed expert source is tried on: the sorting by itself, and the kernels of rows with places that the host has sorted.
#include <cstdio>

#include "kernels/experts/cases.h"
#include "kernels/experts/run.h"
#include "kernels/mutation/driver.h"

namespace {

using namespace meristem::test;

std::string of_kind(const char* kind, const std::string& text) { return text.empty() ? "" : std::string(kind) + ": " + text; }

std::string expert_faults(const ExpertCase& one, bool sort) {
  ExpertProblem problem(one);
  std::string found;
  if (sort) {
    run_sort(problem);
    found = of_kind("wrong", check_sorted(problem));
  } else {
    sort_on_host(problem);
    run_rows(problem);
    found = of_kind("wrong", check_rows(problem).wrong);
    if (found.empty() && one.width == 256) found = check_row_traffic(problem);
  }
  // Which counters lanes touch together is the choices' business: conflicts are no fault here.
  meristem::kernels::device::host::Grid::current().traffic.clear();
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const bool sort = argv[1] == std::string("sort");
  std::vector<ExpertCase> cases{{"whole sectors", 12, 4, 8, 256}};
  for (const ExpertCase& one : expert_cases()) cases.push_back(one);
  for (const ExpertCase& one : random_expert_cases(10)) cases.push_back(one);
  std::vector<MutantProblem> problems;
  for (const ExpertCase& one : cases) problems.push_back({one.name, [one, sort] { return expert_faults(one, sort); }});
  return run_mutant(problems, argc, argv);
}
