// The depth attention kernels' own source on the CPU layer, against the reference.
#include "kernels/depth_attention/cases.h"
#include "kernels/depth_attention/refusals.h"
#include "kernels/depth_attention/run.h"
#include "kernels/depth_attention/work.h"
#include "support/catch.h"

using namespace meristem::test;
namespace kernels = meristem::kernels;
using kernels::device::host::Grid;

TEST_CASE("depth attention agrees with the reference, without an access out of bounds or a race") {
  auto cases = depth_cases();
  for (const DepthCase& one : random_depth_cases(20)) cases.push_back(one);
  double worst = 0;
  for (const DepthCase& one : cases) {
    INFO(one.name);
    DepthProblem problem(one);
    for (const bool backward : {false, true}) {
      Grid::current().work = {};
      backward ? run_depth_backward(problem) : run_depth_forward(problem);
      CHECK(compare_work(Grid::current().work, depth_work(one, backward)) == "");
    }
    const Verdict verdict = check_depth(problem);
    CHECK(verdict.wrong == "");
    worst = std::max(worst, verdict.worst);
  }
  WARN("largest error: " << worst << " times the same-precision reference's");
}

TEST_CASE("every schedule gives the same bits") {
  std::vector<std::vector<std::uint16_t>> results;
  for (const std::uint32_t seed : {0u, 0u, 7u}) {
    DepthProblem problem({"", 6, 10, 2, 64, 5, true, 1, 0, seed});
    run_depth(problem);
    results.emplace_back(problem.out.words.begin(), problem.out.words.end());
    for (const auto* matrices : {&problem.d_keys, &problem.d_values}) {
      for (const DepthMatrix& one : *matrices) results.back().insert(results.back().end(), one.words.begin(), one.words.end());
    }
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("an entry is read once and its gradient written once, in whole sectors") {
  // Where parts of a group load the same bytes, they do so in one instruction of a warp.
  for (const int group : {1, 2, 4, 8}) {
    for (const int head_dim : {64, 128}) {
      INFO(group << " heads a group of " << head_dim);
      DepthProblem problem({"", 16, 2 * group, 2, head_dim, 6, false, 1, 0, 0, false});
      for (const bool backward : {false, true}) {
        Grid::current().traffic.clear();
        backward ? run_depth_backward(problem) : run_depth_forward(problem);
        CHECK(check_traffic(problem, backward) == "");
      }
    }
  }
}

TEST_CASE("offsets beyond 2^31 elements") {
  // Rows 2^28 elements apart: 12 of them span 6 GB, of which the touched pages alone exist.
  constexpr std::int64_t kStride = std::int64_t{1} << 28;
  DepthProblem near({"", 12, 1, 1, 64, 1});
  DeviceArray<std::uint16_t> far(static_cast<std::size_t>(kStride * 11 + 128), /*poison=*/false);
  for (int n = 0; n < 12; ++n) {
    for (int c = 0; c < 64; ++c) far[static_cast<std::size_t>(n * kStride + c)] = near.values[0].words[near.values[0].at(n, c)];
  }
  const auto keys = inputs_of(near.keys);
  const kernels::DepthInput value{far.data(), kStride};
  kernels::depth_attention_forward(near.shape(), near.q.input(), keys.data(), &value, {far.data() + 64, kStride}, near.lse(), nullptr);
  for (int n = 0; n < 12; ++n) {
    for (int c = 0; c < 64; ++c)
      CHECK(far[static_cast<std::size_t>(n * kStride + 64 + c)] == far[static_cast<std::size_t>(n * kStride + c)]);
  }
}

TEST_CASE("what a caller must not ask for") { CHECK(wrong_depth_refusals() == ""); }

TEST_CASE("no entries to join") {
  DepthProblem problem({"", 3, 2, 1, 64, 2, true});
  auto none = problem.shape();
  none.entries = 0;
  const std::uint16_t first = problem.out.words[0];
  kernels::depth_attention_join(none, problem.q.input(), nullptr, nullptr, problem.out.output(), problem.lse(), nullptr);
  CHECK(problem.out.words[0] == first);
}
