// The depth attention kernels on a GPU, on the problems that the CPU layer solves.
#include "kernels/depth_attention/cases.h"
#include "kernels/depth_attention/run.h"
#include "kernels/on_gpu.h"
#include "meristem_kernels/device.h"
#include "support/catch.h"

using namespace meristem::test;
namespace kernels = meristem::kernels;

namespace {

using Entries = std::deque<OnGpu<std::uint16_t>>;

template <class Rows>
std::vector<Rows> table_of(const Entries& copies, const std::deque<DepthMatrix>& entries) {
  std::vector<Rows> table;
  for (std::size_t i = 0; i < copies.size(); ++i) table.push_back({copies[i].data(), entries[i].stride});
  return table;
}

void run_depth_on_gpu(DepthProblem& p) {
  const OnGpu q(p.q.words), out(p.out.words), d_out(p.d_out.words), dq(p.dq.words);
  const OnGpu log_sum_exp(p.log_sum_exp);
  const auto copies = [](const std::deque<DepthMatrix>& entries) {
    Entries made;
    for (const DepthMatrix& entry : entries) made.emplace_back(entry.words);
    return made;
  };
  const Entries keys = copies(p.keys), values = copies(p.values), d_keys = copies(p.d_keys), d_values = copies(p.d_values);
  const auto k = table_of<kernels::DepthInput>(keys, p.keys), v = table_of<kernels::DepthInput>(values, p.values);
  auto dk = gradients_of(p, 0), dv = gradients_of(p, 1);
  for (std::size_t i = 0; i < dk.size(); ++i) {
    dk[i].rows.data = d_keys[i].data();
    dv[i].rows.data = d_values[i].data();
  }
  kernels::DepthLogSumExp lse = p.lse();
  lse.data = log_sum_exp.data();
  const auto forward = p.given.join ? kernels::depth_attention_join : kernels::depth_attention_forward;
  forward(p.shape(), {q.data(), p.q.stride}, k.data(), v.data(), {out.data(), p.out.stride}, lse, nullptr);
  kernels::depth_attention_backward(p.shape(), {q.data(), p.q.stride}, k.data(), v.data(), {out.data(), p.out.stride},
                                    {d_out.data(), p.d_out.stride}, lse, {dq.data(), p.dq.stride},
                                    p.given.join ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite, dk.data(), dv.data(),
                                    nullptr);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  out.fetch();
  dq.fetch();
  log_sum_exp.fetch();
  for (const Entries* entries : {&d_keys, &d_values}) {
    for (const auto& entry : *entries) entry.fetch();
  }
}

bool equal(const DepthMatrix& a, const DepthMatrix& b) { return std::equal(a.words.begin(), a.words.end(), b.words.begin()); }

}  // namespace

TEST_CASE("depth attention on the GPU agrees with the reference, and with itself to the bit") {
  require_gpu();
  auto cases = depth_cases();
  for (const DepthCase& one : random_depth_cases(100)) cases.push_back(one);
  cases.push_back({"more rows than a wave of blocks", 20000, 2, 2, 64, 4});
  for (const DepthCase& one : cases) {
    INFO(one.name);
    DepthProblem problem(one), again(one);
    run_depth_on_gpu(problem);
    CHECK(check_depth(problem).wrong == "");
    run_depth_on_gpu(again);
    CHECK(equal(problem.out, again.out));
    CHECK(equal(problem.dq, again.dq));
    for (std::size_t i = 0; i < problem.keys.size(); ++i) {
      CHECK(equal(problem.d_keys[i], again.d_keys[i]));
      CHECK(equal(problem.d_values[i], again.d_values[i]));
    }
  }
}
