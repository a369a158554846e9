// The expert kernels' own source on the CPU layer.
#include "kernels/experts/cases.h"
#include "kernels/experts/refusals.h"
#include "kernels/experts/run.h"
#include "kernels/experts/work.h"
#include "support/catch.h"

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

TEST_CASE("choices are sorted, rows follow and come back, without a race or an access out of bounds") {
  auto cases = expert_cases();
  for (const ExpertCase& one : random_expert_cases(25)) cases.push_back(one);
  double worst = 0;
  for (const ExpertCase& one : cases) {
    INFO(one.name);
    ExpertProblem problem(one);
    Grid::current().work = {};
    run_sort(problem);
    CHECK(compare_work(Grid::current().work, sort_work(one)) == "");
    Grid::current().work = {};
    run_rows(problem);
    CHECK(compare_work(Grid::current().work, rows_work(one)) == "");
    const Verdict verdict = check_experts(problem);
    CHECK(verdict.wrong == "");
    worst = std::max(worst, verdict.worst);
  }
  WARN("largest error: " << worst << " times the same-precision reference's");
}

TEST_CASE("the cases hold what they are named for") {
  ExpertProblem crowded({"", 70, 1, 8, 24, true});
  run_experts(crowded);
  CHECK(crowded.ends[6] == 0);
  CHECK(crowded.ends[7] == 70);
  ExpertProblem sparse({"", 3, 2, 1000, 8});
  run_experts(sparse);
  CHECK(sparse.ends[999] == 6);
}

TEST_CASE("every schedule gives the same bits") {
  std::vector<std::vector<float>> results;
  for (const std::uint32_t seed : {0u, 0u, 7u}) {
    ExpertProblem problem({"", 600, 3, 11, 72, false, true, seed});
    run_experts(problem);
    results.emplace_back(problem.d_weights.begin(), problem.d_weights.end());
    results.back().insert(results.back().end(), problem.place.begin(), problem.place.end());
    results.back().insert(results.back().end(), problem.y.begin(), problem.y.end());
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("a row is read once and written once, in whole sectors") {
  for (const int choices : {1, 2, 4}) {
    ExpertProblem problem({"", 12, choices, 8, 256});
    run_experts(problem);
    CHECK(check_row_traffic(problem) == "");
  }
}

TEST_CASE("choices are sorted in whole sectors") {
  for (const int tokens : {512, 1280}) {
    ExpertProblem problem({"", tokens, 2, 128, 8});
    Grid::current().traffic.clear();
    run_sort(problem);
    CHECK(check_sort_traffic(problem) == "");
  }
}

TEST_CASE("what a caller must not ask for") { CHECK(wrong_expert_refusals() == ""); }
