// The attention kernels on a GPU, on the problems that the CPU layer solves.
#include "kernels/attention/cases.h"
#include "kernels/attention/check.h"
#include "kernels/attention/far_rows.h"
#include "kernels/on_gpu.h"
#include "support/catch.h"

using namespace meristem::test;
namespace kernels = meristem::kernels;

namespace {

void run_on_gpu(AttentionProblem& p) {
  const OnGpu offsets(p.offsets);
  const OnGpu qkv(p.qkv), out(p.out), d_out(p.d_out), d_qkv(p.d_qkv);
  const OnGpu log_sum_exp(p.log_sum_exp), delta(p.delta);
  kernels::AttentionShape shape = p.shape();
  shape.offsets = offsets.data();
  const auto part = [&](const auto& buffer, char name) { return buffer.data() + p.first_column(name); };
  const auto input = [&](char name) { return kernels::AttentionInput{part(qkv, name), p.columns, p.given.head_dim}; };
  const auto gradient = [&](char name) { return kernels::AttentionOutput{part(d_qkv, name), p.columns, p.given.head_dim}; };
  kernels::attention_forward(shape, input('q'), input('k'), input('v'), {out.data(), p.out_columns, p.given.head_dim}, log_sum_exp.data(),
                             nullptr);
  kernels::attention_backward(shape, input('q'), input('k'), input('v'), {out.data(), p.out_columns, p.given.head_dim},
                              {d_out.data(), p.out_columns, p.given.head_dim}, log_sum_exp.data(), delta.data(), gradient('q'),
                              gradient('k'), gradient('v'), nullptr);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  out.fetch();
  log_sum_exp.fetch();
  d_qkv.fetch();
}

// Blocks beyond what a grid's y and z reach: one a document and head.
AttentionCase many_heads() {
  AttentionCase one{"more than 65,535 documents times heads", {}, 8, 2, 64};
  for (int i = 0; i < 8200; ++i) one.lengths.push_back(1 + i % 3);
  return one;
}

}  // namespace

TEST_CASE("attention on the GPU agrees with the reference, and with itself to the bit") {
  require_gpu();
  auto cases = attention_cases();
  for (const AttentionCase& one : random_attention_cases(40)) cases.push_back(one);
  cases.push_back(many_heads());
  for (const AttentionCase& one : cases) {
    INFO(one.name);
    AttentionProblem problem(one), again(one);
    const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
    run_on_gpu(problem);
    CHECK(check_forward(problem, truth, same).wrong == "");
    CHECK(check_backward(problem, truth, same).wrong == "");
    run_on_gpu(again);
    CHECK(std::equal(problem.out.begin(), problem.out.end(), again.out.begin()));
    CHECK(std::equal(problem.d_qkv.begin(), problem.d_qkv.end(), again.d_qkv.begin()));
  }
}

TEST_CASE("offsets beyond 2^31 elements on the GPU") {
  require_gpu();
  std::uint16_t* rows = nullptr;
  REQUIRE(cudaMalloc(&rows, kFarElements * sizeof *rows) == cudaSuccess);  // 8.7 GB
  AttentionProblem near(far_case());
  run_on_gpu(near);
  const OnGpu offsets(near.offsets);
  const OnGpu log_sum_exp(near.log_sum_exp), delta(near.delta);
  const auto copy = [](std::uint16_t* to, const std::uint16_t* from, int count) {
    REQUIRE(cudaMemcpy(to, from, static_cast<std::size_t>(count) * sizeof *to, cudaMemcpyDefault) == cudaSuccess);
  };
  CHECK(wrong_far_rows({rows, offsets.data(), log_sum_exp.data(), delta.data()}, near, copy) == "");
  cudaFree(rows);
}
