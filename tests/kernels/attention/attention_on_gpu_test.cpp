// The attention kernels on a GPU, on the problems that the CPU layer solves.
#include <cuda_runtime.h>

#include "kernels/attention/cases.h"
#include "kernels/attention/check.h"
#include "support/catch.h"

using namespace meristem::test;
namespace kernels = meristem::kernels;

namespace {

// A copy of a problem's buffer in the GPU's memory.
template <class T>
class OnGpu {
 public:
  explicit OnGpu(const DeviceArray<T>& host) : host_(host) {
    REQUIRE(cudaMalloc(&data_, host.size() * sizeof(T) + 1) == cudaSuccess);
    REQUIRE(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  T* data() const { return data_; }
  void fetch() const { REQUIRE(cudaMemcpy(host_.data(), data_, host_.size() * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess); }

 private:
  const DeviceArray<T>& host_;
  T* data_ = nullptr;
};

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

}  // namespace

TEST_CASE("attention on the GPU agrees with the reference, and with itself to the bit") {
  if (!kernels::available()) {
    WARN("SKIPPED: no GPU");
    return;
  }
  auto cases = attention_cases();
  for (const AttentionCase& one : random_attention_cases(40)) cases.push_back(one);
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
