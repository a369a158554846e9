// The dense kernels on a GPU: the CPU layer's problems, larger ones, and, where [.speed] is asked for, the bandwidth that they reach next
// to a copy's. A kernel's cases have its tag: scripts/gpu_check runs each kernel in a process of its own.
#include <limits>

#include "kernels/dense/adamw.h"
#include "kernels/dense/cross_entropy.h"
#include "kernels/dense/rms_norm.h"
#include "kernels/dense/rope.h"
#include "kernels/dense/swiglu.h"
#include "kernels/on_gpu.h"

using namespace meristem;
using namespace meristem::test;

namespace {

template <class Cases, class Faults>
void check_on_gpu(const Cases& cases, const Faults& faults) {
  require_gpu();
  for (const auto& one : cases) {
    INFO(one.name);
    CHECK(faults(one) == "");
  }
}

}  // namespace

TEST_CASE("AdamW on the GPU agrees with the oracle, element for element", "[adamw]") {
  check_on_gpu(adamw_cases(), [](const AdamwCase& one) { return adamw_faults<GpuMemory>(one); });
  for (const bool half : {true, false}) {
    CHECK(adamw_faults<GpuMemory>({"many tiles", {4, 0, 3000000, 0, 8}, 4, half}) == "");
    const std::vector<std::int64_t> several(2 * kernels::kAdamwRangesPerLaunch + 3, 2052);
    CHECK(adamw_faults<GpuMemory>({"several launches", several, 4, half}) == "");
  }
}

TEST_CASE("the squared norm on the GPU agrees with a sum in order and repeats its bits", "[adamw]") {
  require_gpu();
  for (const std::int64_t count : {1, 3, 4, 1023, 4096, 4097, 1000003, 9000000}) CHECK(squared_norm_faults<GpuMemory>(count) == "");
  CHECK(std::isinf(squared_norm_with<GpuMemory>(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(squared_norm_with<GpuMemory>(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("RMSNorm on the GPU", "[rms_norm]") {
  check_on_gpu(rms_norm_cases(), rms_norm_faults<GpuMemory>);
  CHECK(rms_norm_faults<GpuMemory>({"many rows", 4099, 768, true, true}) == "");
  const RmsNormCase one{"", 1000, 2048, true, true};
  RmsNormProblem<Bf16, GpuMemory> first(one), second(one);
  first.run();
  second.run();
  CHECK(first.bits() == second.bits());
}

TEST_CASE("SwiGLU on the GPU", "[swiglu]") {
  check_on_gpu(swiglu_cases(), swiglu_faults<GpuMemory>);
  CHECK(swiglu_faults<GpuMemory>({"many rows", 2051, 1000}) == "");
}

TEST_CASE("the chunked cross-entropy on the GPU", "[cross_entropy]") {
  check_on_gpu(cross_entropy_cases(), cross_entropy_faults<GpuMemory>);
  CHECK(cross_entropy_faults<GpuMemory>({"many rows", 37, 50257, 3, 0, true}) == "");
}

TEST_CASE("RoPE and QK norm on the GPU", "[rope]") {
  check_on_gpu(rope_cases(), rope_faults<GpuMemory>);
  const RopeCase one{"", 3001, 18, 12, 64, 384};
  CHECK(rope_faults<GpuMemory>(one) == "");
  RopeProblem<Bf16, GpuMemory> first(one), second(one);
  first.run();
  second.run();
  CHECK(first.bits() == second.bits());
}

TEST_CASE("what share of a copy's bandwidth the dense kernels move their bytes at", "[.speed]") {
  require_gpu();
  constexpr std::int64_t kRows = 32768;
  constexpr int kWidth = 2048, kHeads = 24, kDim = 128, kVocab = 50304, kLogitRows = 2048;
  const std::size_t matrix = std::size_t{kRows} * 2 * kWidth * 2;  // bf16, two widths a row
  const Bytes a(matrix), b(matrix), c(matrix), d(matrix), logits(std::size_t{kLogitRows} * kVocab * 2);
  const Bytes gain(4 * kWidth), gain_sums(4 * kWidth), rstd(4 * kRows), partials(4 * kernels::kRmsNormScratch), integers(4 * kRows),
      angles(4 * kDim);
  const double copy =
      rate_of(2.0 * static_cast<double>(matrix), [&] { cudaMemcpyAsync(a.as(), b.as(), matrix, cudaMemcpyDeviceToDevice); });
  const auto report = [&](const char* name, double bytes, const auto& call) {
    const double rate = rate_of(bytes, call);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    WARN(name << " " << rate / 1e9 << " GB/s, copy " << copy / 1e9 << " GB/s, ratio " << rate / copy);
    CHECK(rate > 0);  // what it should be is gpu_check's to judge: no speed decides whether a kernel is right
  };
  const kernels::Element bf16 = kernels::Element::kBf16;
  const double row_bytes = 2.0 * static_cast<double>(kRows) * kWidth;
  const kernels::RmsNormShape norm{kRows, kWidth, bf16};
  report("RMSNorm forward", 2 * row_bytes,
         [&] { kernels::rms_norm_forward(norm, a.as(), nullptr, gain.as<float>(), 1e-5f, nullptr, b.as(), rstd.as<float>(), nullptr); });
  report("RMSNorm forward with the residual addition", 4 * row_bytes,
         [&] { kernels::rms_norm_forward(norm, a.as(), c.as(), gain.as<float>(), 1e-5f, d.as(), b.as(), rstd.as<float>(), nullptr); });
  report("RMSNorm backward", 3 * row_bytes, [&] {
    kernels::rms_norm_backward(norm, a.as(), b.as(), gain.as<float>(), rstd.as<float>(), nullptr, c.as(), gain_sums.as<float>(),
                               partials.as<float>(), nullptr);
  });
  report("SwiGLU forward", 3 * row_bytes, [&] { kernels::swiglu_forward({kRows, kWidth, bf16}, a.as(), b.as(), nullptr); });
  report("SwiGLU backward", 5 * row_bytes, [&] { kernels::swiglu_backward({kRows, kWidth, bf16}, a.as(), b.as(), c.as(), nullptr); });
  const std::int64_t columns = kHeads * kDim;
  const kernels::RopeShape heads{kRows, kHeads, kDim, bf16, integers.as<std::int32_t>(), angles.as<float>(), angles.as<float>()};
  const double head_bytes = 2.0 * static_cast<double>(kRows * columns);
  report("RoPE", 2 * head_bytes, [&] { kernels::rope(heads, a.as(), columns, 1, nullptr); });
  const kernels::QkNorm qk{kHeads / 2, 1e-5f, gain.as<float>(), gain.as<float>()};
  report("RoPE with QK norm", 2 * head_bytes,
         [&] { kernels::qk_norm_rope_forward(heads, qk, static_cast<int>(columns), a.as(), columns, b.as(), columns, nullptr); });
  report("RoPE with QK norm, backward", 3 * head_bytes, [&] {
    kernels::qk_norm_rope_backward(heads, qk, static_cast<int>(columns), a.as(), columns, b.as(), columns, c.as(), columns,
                                   gain_sums.as<float>(), partials.as<float>(), nullptr);
  });
  // The second reading of a row should come from the caches: it is not counted.
  report("cross-entropy with its gradient", 2 * 2.0 * kLogitRows * kVocab, [&] {
    kernels::cross_entropy({kLogitRows, kVocab, bf16}, logits.as(), integers.as<std::int32_t>(), rstd.as<float>(), true, nullptr);
  });
}

TEST_CASE("what share of a copy's bandwidth AdamW moves its bytes at", "[.speed]") {
  require_gpu();
  constexpr std::size_t kCount = std::size_t{32} << 20;  // far beyond any L2
  const Bytes master(4 * kCount), exp_avg(4 * kCount), exp_avg_sq(4 * kCount), grad(4 * kCount), half(2 * kCount), scalars(16);
  const kernels::AdamwRange range{0, 0, 0, static_cast<std::int64_t>(kCount), 0.1f};
  const double update = rate_of(30.0 * kCount, [&] {
    kernels::adamw({master.as<float>(), exp_avg.as<float>(), exp_avg_sq.as<float>(), grad.as<float>(), half.as<Bf16>()}, &range, 1, {},
                   scalars.as<float>() + 2, scalars.as<float>(), scalars.as<float>() + 1, nullptr);
  });
  const double copy = rate_of(8.0 * kCount, [&] { check(cudaMemcpyAsync(master.as(), grad.as(), kCount * 4, cudaMemcpyDeviceToDevice)); });
  WARN("AdamW " << update / 1e9 << " GB/s, copy " << copy / 1e9 << " GB/s, ratio " << update / copy);
  CHECK(update > 0);
}
