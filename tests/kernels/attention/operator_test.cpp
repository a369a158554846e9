// Attention's CUDA passes as an operator, around the kernels' own source on the CPU layer: what the operator passes (places of q, k and v
// in the projection, strides, documents, scale, scratch) against the reference, every access checked against the tensors' bounds.
#include <algorithm>

#include <torch/torch.h>

#include "kernels/attention/reference.h"
#include "kernels/device_tensors.h"
#include "kernels/on_cpu.h"
#include "ops/attention.h"
#include "ops/attention_passes.h"
#include "support/catch.h"

using namespace meristem;
using test::AttentionCase;
using AttentionOnCpu = test::AttentionProblem<test::CpuMemory>;

namespace {

at::Tensor tensor_of(const test::CpuArray<test::Bf16>& words, std::int64_t rows, std::int64_t columns) {
  return torch::from_blob(words.data(), {rows, columns}, torch::kBFloat16).clone();
}

void copy_to(const at::Tensor& values, test::CpuArray<test::Bf16>& words, std::int64_t columns) {
  torch::from_blob(words.data(), {values.size(0), columns}, torch::kBFloat16).narrow(1, 0, values.size(1)).copy_(values);
}

// Runs the operator on the problem's values and leaves what it made in the problem's buffers.
// wide: qkv is a part of wider rows. turned: the incoming gradient lies column by column in memory.
void run_operator(AttentionOnCpu& problem, bool wide, bool turned) {
  const AttentionCase& given = problem.given;
  const ops::HeadShape shape{given.heads, given.kv_heads, given.head_dim};
  ops::Documents documents;
  documents.lengths.assign(given.lengths.begin(), given.lengths.end());
  const at::Tensor packed = tensor_of(problem.qkv, problem.tokens, problem.columns);
  at::Tensor qkv = wide ? at::cat({packed, packed.narrow(1, 0, 64)}, 1).narrow(1, 0, problem.columns) : packed;
  qkv = qkv.detach().requires_grad_();
  const at::Tensor out = ops::fused_attention(ops::kAttentionPassesCuda, qkv, shape, documents.on(at::kCPU));
  const at::Tensor d_out = tensor_of(problem.d_out, problem.tokens, problem.out_columns).narrow(1, 0, shape.query_columns());
  out.backward(turned ? d_out.t().contiguous().t() : d_out);
  copy_to(out.detach(), problem.out, problem.out_columns);
  copy_to(qkv.grad(), problem.d_qkv, problem.columns);
}

void check(const AttentionCase& given, bool wide, bool turned) {
  INFO(given.name << (wide ? ", wide rows" : "") << (turned ? ", turned gradient" : ""));
  AttentionOnCpu problem(given);
  const test::AttentionReferences references = references_of(problem);
  run_operator(problem, wide, turned);
  // The operator keeps the log-sum-exp for itself; gradients would show a wrong one.
  const std::vector<double>& truth = references.truth.log_sum_exp;
  std::copy(truth.begin(), truth.end(), problem.log_sum_exp.begin());
  CHECK(check_forward(problem, references).wrong == "");
  CHECK(check_backward(problem, references).wrong == "");
}

}  // namespace

TEST_CASE("the operator hands the kernel the projection, the documents and the scale as they are") {
  const test::TensorsAsDeviceMemory on_the_device;
  check({"one document", {70}, 2, 1, 64}, false, false);
  check({"packed documents, some empty", {5, 0, 66, 1, 0}, 4, 2, 64}, false, false);
  check({"head dim 128", {40, 30}, 2, 2, 128}, false, false);
  check({"one document", {70}, 2, 1, 64}, true, false);
  check({"packed documents", {33, 21}, 2, 1, 64}, false, true);
}

TEST_CASE("the operator reads the offsets that a batch brings, and makes none itself") {
  const test::TensorsAsDeviceMemory on_the_device;
  AttentionOnCpu problem({"", {20, 44}, 2, 1, 64});
  const ops::HeadShape shape{2, 1, 64};
  const at::Tensor qkv = tensor_of(problem.qkv, 64, problem.columns);
  ops::Documents documents{{20, 44}};
  CHECK(torch::equal(documents.on(at::kCPU).offsets, torch::tensor({0, 20, 64}, torch::kInt)));
  const at::Tensor made = ops::fused_attention(ops::kAttentionPassesCuda, qkv, shape, documents.on(at::kCPU));
  CHECK_THROWS_WITH(ops::fused_attention(ops::kAttentionPassesCuda, qkv, shape, documents), Catch::Contains("no offsets of its documents"));
  documents.offsets = torch::tensor({0, 20, 64, 64, 64}, torch::kInt);  // padded with empty documents
  CHECK(torch::equal(ops::fused_attention(ops::kAttentionPassesCuda, qkv, shape, documents), made));
  CHECK_THROWS_WITH(ops::fused_attention(ops::kAttentionPassesCuda, qkv.to(torch::kFloat), shape, documents),
                    Catch::Contains("expected [N, 256] of BFloat16"));
}

TEST_CASE("attention's gradients are added up in any order, unless deterministic algorithms are asked for") {
  const test::TensorsAsDeviceMemory on_the_device;
  test::Grid& grid = test::Grid::current();
  for (const bool deterministic : {false, true}) {
    INFO(deterministic);
    at::globalContext().setDeterministicAlgorithms(deterministic, false);
    grid.work = {};
    check({"documents", {150, 40}, 2, 1, 64}, false, false);
    CHECK((grid.work.added == 0) == deterministic);
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}
