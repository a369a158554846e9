// The attention kernels' own source on the CPU layer, against the reference.
#include "kernels/attention/cases.h"
#include "kernels/attention/check.h"
#include "kernels/attention/far_rows.h"
#include "kernels/attention/places_check.h"
#include "kernels/attention/refusals.h"
#include "kernels/attention/run_on_cpu.h"
#include "kernels/attention/work.h"
#include "support/catch.h"

#include <limits>

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

namespace {

void check_all(const std::vector<AttentionCase>& cases) {
  for (const AttentionCase& one : cases) {
    INFO(one.name << ", seed " << one.seed);
    AttentionProblem problem(one);
    const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
    Grid::current().work = {};
    run_forward(problem);
    CHECK(check_forward(problem, truth, same).wrong == "");
    CHECK(compare_work(Grid::current().work, forward_work(one)) == "");
    Grid::current().work = {};
    run_backward(problem);
    CHECK(check_backward(problem, truth, same).wrong == "");
    CHECK(compare_work(Grid::current().work, backward_work(one)) == "");
  }
}

}  // namespace

TEST_CASE("attention agrees with the reference, without a race, an access out of bounds, a bank conflict or more work than needed") {
  Grid::current().traffic.clear();
  check_all(attention_cases());
  check_all(random_attention_cases(12));
  int shared_lines = 0;
  for (const auto& [line, traffic] : meristem::kernels::device::host::by_line(Grid::current().traffic)) {
    INFO(line);
    shared_lines += traffic.shared_accesses > 0;
    CHECK(traffic.bank_conflicts == 0);
  }
  CHECK(shared_lines >= 6);
}

TEST_CASE("the cases hold what they are named for") {
  for (const AttentionCase& one : attention_cases()) {
    if (one.name.find("log-sum-exp below") == std::string::npos) continue;
    AttentionProblem problem(one);
    const AttentionResult truth = AttentionReference<double>(problem).result();
    CHECK(*std::max_element(truth.log_sum_exp.begin(), truth.log_sum_exp.end()) < -88);
  }
}

TEST_CASE("the check sees what is wrong in one row, and what was never written") {
  const AttentionCase one{"", {300}, 1, 1, 64, 78};
  AttentionProblem problem(one);
  const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
  run_forward(problem);
  REQUIRE(check_forward(problem, truth, same).wrong == "");
  std::uint16_t& element = problem.out[AttentionProblem::at(200, 7, problem.out_columns)];
  const std::uint16_t right = element;
  element = bf16_bits(bf16_value(right) + 0.01);  // one key more in this row; the whole tensor's error is 0.08, of which 2 x is allowed
  const std::string wrong = check_forward(problem, truth, same).wrong;
  CHECK(wrong.rfind("out, row 200:", 0) == 0);
  element = 0xFFFF;
  CHECK(check_forward(problem, truth, same).wrong != "");
  element = right;
  problem.log_sum_exp[4] = std::numeric_limits<float>::quiet_NaN();
  CHECK(check_forward(problem, truth, same).wrong.rfind("log_sum_exp:", 0) == 0);
}

TEST_CASE("two runs and two schedules give the same bits") {
  std::vector<std::vector<std::uint16_t>> outs;
  for (const std::uint32_t seed : {0u, 0u, 9u}) {
    AttentionCase one{"", {90, 77}, 2, 1, 64};
    one.seed = seed;
    AttentionProblem problem(one);
    run_forward(problem);
    run_backward(problem);
    outs.emplace_back(problem.out.begin(), problem.out.end());
    outs.back().insert(outs.back().end(), problem.d_qkv.begin(), problem.d_qkv.end());
  }
  CHECK(outs[0] == outs[1]);
  CHECK(outs[0] == outs[2]);
}

TEST_CASE("offsets beyond 2^31 elements") {
  AttentionProblem near(far_case());
  run_forward(near);
  run_backward(near);
  DeviceArray<std::uint16_t> rows(kFarElements, /*poison=*/false);  // 8.7 GB, of which the touched pages alone exist
  DeviceArray<float> log_sum_exp(kFarTokens), delta(kFarTokens);
  CHECK(wrong_far_rows({rows.data(), near.offsets.data(), log_sum_exp.data(), delta.data()}, near,
                       [](std::uint16_t* to, const std::uint16_t* from, int count) { std::copy_n(from, count, to); }) == "");
}

TEST_CASE("shared memory that a block asks for, in bytes") { CHECK(wrong_sizes() == ""); }

TEST_CASE("the window's limits, and which tiles need the mask") { CHECK(wrong_places() == ""); }

TEST_CASE("what a caller must not ask for") { CHECK(wrong_refusals() == ""); }
