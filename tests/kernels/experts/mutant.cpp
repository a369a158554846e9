// What a changed expert source is tried on: the sorting by itself, and the kernels of rows with places that the host has sorted.
#include <cstdio>

#include "kernels/experts/cases.h"
#include "kernels/experts/refusals.h"
#include "kernels/experts/run.h"
#include "kernels/experts/work.h"
#include "kernels/mutation/driver.h"

namespace {

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

constexpr const char* kDense = "whole sectors";  // the problem whose bytes are counted

std::string of_kind(const char* kind, const std::string& text) { return text.empty() ? "" : std::string(kind) + ": " + text; }

std::string expert_faults(const ExpertCase& one, bool sort) {
  ExpertProblem problem(one);
  std::string found;
  Grid::current().work = {};
  if (sort) {
    Grid::current().settings.shared_limit = sort_shared(one);
    run_sort(problem);
    found = of_kind("wrong", check_sorted(problem));
  } else {
    Grid::current().settings.shared_limit = 0;
    sort_on_host(problem);
    run_rows(problem);
    found = of_kind("wrong", check_rows(problem).wrong);
  }
  if (found.empty()) found = of_kind("work", compare_work(Grid::current().work, sort ? sort_work(one) : rows_work(one)));
  if (found.empty() && one.name == kDense) found = sort ? check_sort_traffic(problem) : check_row_traffic(problem);
  // Which counters lanes touch together is the choices' business: conflicts are no fault here.
  Grid::current().traffic.clear();
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  if (argv[1] == std::string("refusals"))
    return run_mutant({{"refusals", [] { return of_kind("refusal", wrong_expert_refusals()); }}}, argc, argv);
  const bool sort = argv[1] == std::string("sort");
  std::vector<ExpertCase> cases{sort ? ExpertCase{kDense, 1280, 2, 128, 8} : ExpertCase{kDense, 12, 4, 8, 256}};
  for (const ExpertCase& one : expert_cases()) cases.push_back(one);
  for (const ExpertCase& one : random_expert_cases(10)) cases.push_back(one);
  std::vector<MutantProblem> problems;
  for (const ExpertCase& one : cases) problems.push_back({one.name, [one, sort] { return expert_faults(one, sort); }});
  return run_mutant(problems, argc, argv);
}
