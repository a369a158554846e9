// The kernels on a GPU: the same oracle as on the CPU, at sizes that fill the device, and the speed that notes.md promises.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/adamw_oracle.h"
#include "kernels/require_gpu.h"
#include "meristem_kernels/adamw.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;

namespace {

constexpr float kLr = 3e-3f, kClip = 0.7f;

void check(cudaError_t error) {
  INFO(cudaGetErrorString(error));
  REQUIRE(error == cudaSuccess);
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) { check(cudaMalloc(&data_, count * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> host(count_);
    check(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

struct DeviceState {
  DeviceArray<float> master, exp_avg, exp_avg_sq, grad, lr, clip;
  DeviceArray<std::uint16_t> half;

  explicit DeviceState(const AdamwArrays& host)
      : master(host.master),
        exp_avg(host.exp_avg),
        exp_avg_sq(host.exp_avg_sq),
        grad(host.grad),
        lr(std::vector<float>{kLr}),
        clip(std::vector<float>{kClip}),
        half(host.half) {}
  kernels::AdamwBuffers buffers(bool with_half) const {
    return {master.get(), exp_avg.get(), exp_avg_sq.get(), grad.get(), with_half ? half.get() : nullptr};
  }
};

// Seconds of one call, the median of `repeats` after a warm-up.
template <typename Call>
double median_seconds(int repeats, const Call& call) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> milliseconds;
  for (int i = 0; i < repeats + 3; ++i) {
    check(cudaEventRecord(begin));
    call();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, begin, end));
    if (i >= 3) milliseconds.push_back(elapsed);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(milliseconds.begin(), milliseconds.begin() + repeats / 2, milliseconds.end());
  return milliseconds[static_cast<std::size_t>(repeats / 2)] / 1000.0;
}

}  // namespace

TEST_CASE("AdamW on the GPU agrees with the oracle, element for element", "[gpu]") {
  require_gpu();
  const std::vector<std::vector<std::int64_t>> lists{{4, 2048, 2052, 8192, 12},
                                                     {1, 3, 2047, 2049, 5000, 6145},
                                                     {4, 0, 3000000, 0, 8},
                                                     std::vector<std::int64_t>(2 * kernels::kAdamwRangesPerLaunch + 3, 2052)};
  for (const auto& counts : lists) {
    for (const bool half : {true, false}) {
      std::int64_t total = 0;
      const auto ranges = ranges_of(counts, 4, total);
      const AdamwArrays before(static_cast<std::size_t>(total), 11);
      const DeviceState state(before);
      const std::vector<float> bias = bias_corrections_of(ranges.size());
      const DeviceArray<float> corrections(bias);
      kernels::adamw(state.buffers(half), ranges.data(), static_cast<int>(ranges.size()), {}, corrections.get(), state.lr.get(),
                     state.clip.get(), nullptr);
      check(cudaDeviceSynchronize());
      AdamwArrays after = before;
      after.master = state.master.values();
      after.exp_avg = state.exp_avg.values();
      after.exp_avg_sq = state.exp_avg_sq.values();
      after.half = state.half.values();
      CHECK(wrong_elements(before, after, ranges, bias, {}, kLr, kClip, half) == 0);
    }
  }
}

TEST_CASE("the squared norm agrees with the oracle and repeats its bits", "[gpu]") {
  require_gpu();
  const DeviceArray<double> partials(kernels::kSquaredNormPartials), result(1);
  const auto norm_of = [&](const std::vector<float>& values) {
    const DeviceArray<float> device(values);
    kernels::squared_norm(device.get(), static_cast<std::int64_t>(values.size()), partials.get(), result.get(), nullptr);
    return result.values()[0];
  };
  for (const std::size_t count : {1u, 3u, 4u, 1023u, 4096u, 4097u, 1000003u, 9000000u}) {
    const AdamwArrays arrays(count, 5);
    double want = 0;
    for (const float value : arrays.grad) want += static_cast<double>(value) * value;
    const double got = norm_of(arrays.grad);
    CHECK(got == Approx(want).epsilon(1e-12));
    CHECK(norm_of(arrays.grad) == got);
  }
  std::vector<float> bad(5000, 1.0f);
  bad[4999] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(norm_of(bad)));
  bad[17] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(norm_of(bad)));
}

TEST_CASE("AdamW moves its bytes at nearly the speed of a copy", "[gpu]") {
  require_gpu();
  constexpr std::size_t kCount = std::size_t{32} << 20;  // far beyond any L2
  const DeviceArray<float> master(kCount), exp_avg(kCount), exp_avg_sq(kCount), grad(kCount);
  const DeviceArray<float> lr(std::vector<float>{kLr}), clip(std::vector<float>{kClip}), bias(std::vector<float>{0.5f, 0.5f});
  const DeviceArray<std::uint16_t> half(kCount);
  for (const auto* array : {&master, &exp_avg, &exp_avg_sq, &grad}) check(cudaMemset(array->get(), 0, kCount * sizeof(float)));
  const kernels::AdamwRange range{0, static_cast<std::int64_t>(kCount), 0.1f};
  const double update = median_seconds(31, [&] {
    kernels::adamw({master.get(), exp_avg.get(), exp_avg_sq.get(), grad.get(), half.get()}, &range, 1, {}, bias.get(), lr.get(), clip.get(),
                   nullptr);
  });
  const double copy = median_seconds(31, [&] { check(cudaMemcpyAsync(master.get(), grad.get(), kCount * 4, cudaMemcpyDeviceToDevice)); });
  const double update_bandwidth = 30.0 * kCount / update, copy_bandwidth = 8.0 * kCount / copy;
  WARN("AdamW " << update_bandwidth / 1e9 << " GB/s, copy " << copy_bandwidth / 1e9 << " GB/s, ratio "
                << update_bandwidth / copy_bandwidth);
  CHECK(update_bandwidth >= 0.85 * copy_bandwidth);
}
