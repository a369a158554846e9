#include "device/launch.h"
#include "meristem_kernels/squared_norm.h"

namespace meristem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;
constexpr std::int64_t kElementsPerBlock = kThreads * kVector * 4;  // below this, one more block costs more than it saves

// Adds the block's values in a fixed tree; the sum is thread 0's.
__device__ double block_sum(double value) {
  __shared__ double warp_sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += warp_sums[warp];
  }
  return sum;
}

__device__ double square(float value) { return static_cast<double>(value) * static_cast<double>(value); }

__global__ void __launch_bounds__(kThreads)
    partial_sums(const float* __restrict__ values, std::int64_t count, double* __restrict__ partials) {
  const std::int64_t vectors = count / kVector;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = thread; i < vectors; i += stride) {
    const float4 four = reinterpret_cast<const float4*>(values)[i];
    sum += square(four.x) + square(four.y) + (square(four.z) + square(four.w));
  }
  if (const std::int64_t tail = vectors * kVector + thread; tail < count) sum += square(values[tail]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) total(const double* __restrict__ partials, int count, double* __restrict__ result) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *result = sum;
}

}  // namespace

void squared_norm(const float* values, std::int64_t count, double* partials, double* result, Stream stream) {
  const std::int64_t wanted = (count + kElementsPerBlock - 1) / kElementsPerBlock;
  const int blocks = static_cast<int>(wanted < 1 ? 1 : wanted > kSquaredNormPartials ? kSquaredNormPartials : wanted);
  partial_sums<<<blocks, kThreads, 0, stream>>>(values, count, partials);
  detail::check_launch("squared_norm, first pass");
  total<<<1, kThreads, 0, stream>>>(partials, blocks, result);
  detail::check_launch("squared_norm, second pass");
}

}  // namespace meristem::kernels
