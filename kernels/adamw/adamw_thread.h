// What one thread of the AdamW kernel does, as a plain function: nvcc compiles it into the kernel, and a test on the CPU walks it over
// every block and thread against an fp64 oracle, so that indexing and arithmetic are checked without a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "meristem_kernels/adamw.h"

#ifdef __CUDACC__
#define MERISTEM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MERISTEM_HOST_DEVICE inline
#endif

namespace meristem::kernels::detail {

inline constexpr int kAdamwThreads = 256;
inline constexpr int kAdamwVector = 4;      // elements of one 16-byte access
inline constexpr int kAdamwVectors = 2;     // vectors a thread handles: eight independent loads in flight
inline constexpr int kAdamwTile = kAdamwThreads * kAdamwVector * kAdamwVectors;  // elements of a block
inline constexpr int kAdamwBlocksPerSm = 4;  // 64 registers a thread: 1024 threads with 128 bytes each in flight

// The launch's argument (constant memory): block b works on the segment s with first_tile[s] <= b < first_tile[s + 1].
struct AdamwLaunch {
  AdamwBuffers buffers;
  AdamwConstants constants;
  const float* lr;
  const float* clip_factor;
  int segment_count;
  bool vectorised;  // all buffers and offsets allow 16-byte accesses
  std::int32_t first_tile[kAdamwSegmentsPerLaunch + 1];
  AdamwSegment segments[kAdamwSegmentsPerLaunch];
};
static_assert(sizeof(AdamwLaunch) <= 4096, "a kernel's arguments");

struct alignas(16) Float4 {
  float x[4];
};
struct alignas(8) Half4 {
  std::uint16_t x[4];
};

// The moments and the master are touched once a step: keeping them out of the cache leaves room for what is used again.
MERISTEM_HOST_DEVICE Float4 load_streaming(const float* from) {
#ifdef __CUDA_ARCH__
  const float4 four = __ldcs(reinterpret_cast<const float4*>(from));
  return {{four.x, four.y, four.z, four.w}};
#else
  return *reinterpret_cast<const Float4*>(from);
#endif
}
MERISTEM_HOST_DEVICE void store_streaming(float* to, const Float4& value) {
#ifdef __CUDA_ARCH__
  __stcs(reinterpret_cast<float4*>(to), make_float4(value.x[0], value.x[1], value.x[2], value.x[3]));
#else
  *reinterpret_cast<Float4*>(to) = value;
#endif
}

MERISTEM_HOST_DEVICE std::uint16_t bf16_bits(float value) {
  union {
    float number;
    std::uint32_t bits;
  } u{value};
  if (value != value) return 0x7FC0;                   // rounding could turn a NaN into an infinity
  u.bits += 0x7FFF + ((u.bits >> 16) & 1);             // to nearest, ties to even
  return static_cast<std::uint16_t>(u.bits >> 16);
}

struct AdamwStep {
  float beta1, beta2, eps, lr, clip_factor, bias_correction1, bias_correction2_sqrt, weight_decay;
};

MERISTEM_HOST_DEVICE void update_element(float& p, float& m, float& v, float grad, const AdamwStep& s) {
  const float g = grad * s.clip_factor;
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
  p -= s.lr * s.weight_decay * p;
  p -= s.lr * (m / s.bias_correction1) / (std::sqrt(v) / s.bias_correction2_sqrt + s.eps);
}

MERISTEM_HOST_DEVICE void update_scalar(const AdamwBuffers& at, std::int64_t i, const AdamwStep& step) {
  float p = at.master[i], m = at.exp_avg[i], v = at.exp_avg_sq[i];
  update_element(p, m, v, at.grad[i], step);
  at.master[i] = p;
  at.exp_avg[i] = m;
  at.exp_avg_sq[i] = v;
  if (at.half != nullptr) at.half[i] = bf16_bits(p);
}

MERISTEM_HOST_DEVICE void store_vector(const AdamwBuffers& at, std::int64_t i, const Float4& p, const Float4& m, const Float4& v) {
  store_streaming(at.master + i, p);
  store_streaming(at.exp_avg + i, m);
  store_streaming(at.exp_avg_sq + i, v);
  if (at.half == nullptr) return;
  *reinterpret_cast<Half4*>(at.half + i) = Half4{{bf16_bits(p.x[0]), bf16_bits(p.x[1]), bf16_bits(p.x[2]), bf16_bits(p.x[3])}};
}

// A tile that lies whole inside its segment: every load is issued before the first use.
MERISTEM_HOST_DEVICE void update_whole_tile(const AdamwBuffers& at, std::int64_t begin, int thread, const AdamwStep& step) {
  Float4 p[kAdamwVectors], m[kAdamwVectors], v[kAdamwVectors], g[kAdamwVectors];
#pragma unroll
  for (int k = 0; k < kAdamwVectors; ++k) {
    const std::int64_t i = begin + (k * kAdamwThreads + thread) * kAdamwVector;
    p[k] = load_streaming(at.master + i);
    m[k] = load_streaming(at.exp_avg + i);
    v[k] = load_streaming(at.exp_avg_sq + i);
    g[k] = load_streaming(at.grad + i);
  }
#pragma unroll
  for (int k = 0; k < kAdamwVectors; ++k) {
    const std::int64_t i = begin + (k * kAdamwThreads + thread) * kAdamwVector;
#pragma unroll
    for (int j = 0; j < kAdamwVector; ++j) update_element(p[k].x[j], m[k].x[j], v[k].x[j], g[k].x[j], step);
    store_vector(at, i, p[k], m[k], v[k]);
  }
}

MERISTEM_HOST_DEVICE int segment_of_tile(const AdamwLaunch& launch, int tile) {
  int low = 0, high = launch.segment_count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (launch.first_tile[middle] <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

MERISTEM_HOST_DEVICE void adamw_thread(const AdamwLaunch& launch, int block, int thread) {
  const int index = segment_of_tile(launch, block);
  const AdamwSegment& segment = launch.segments[index];
  const AdamwStep step{launch.constants.beta1,   launch.constants.beta2,        launch.constants.eps,          *launch.lr,
                       *launch.clip_factor,      segment.bias_correction1,      segment.bias_correction2_sqrt, segment.weight_decay};
  const std::int64_t inside = static_cast<std::int64_t>(block - launch.first_tile[index]) * kAdamwTile;
  const std::int64_t begin = segment.offset + inside;
  const std::int64_t left = segment.count - inside;
  if (launch.vectorised && left >= kAdamwTile) {
    update_whole_tile(launch.buffers, begin, thread, step);
    return;
  }
  const std::int64_t count = left < kAdamwTile ? left : kAdamwTile;
  for (std::int64_t i = thread; i < count; i += kAdamwThreads) update_scalar(launch.buffers, begin + i, step);
}

// Host side: fills the launch with the next segments from `first` on and returns how many it took; tiles: the blocks to launch.
// Empty segments get no tile. At most 2^31 - 1 tiles a launch: 4e12 elements.
inline int fill_adamw_launch(AdamwLaunch& launch, const AdamwSegment* segments, int segment_count, int first, std::int32_t& tiles) {
  const auto aligned = [](const void* pointer, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0; };
  const AdamwBuffers& at = launch.buffers;
  launch.vectorised = aligned(at.master, 16) && aligned(at.exp_avg, 16) && aligned(at.exp_avg_sq, 16) && aligned(at.grad, 16) &&
                      aligned(at.half, 8);
  int taken = 0;
  tiles = 0;
  for (; taken < kAdamwSegmentsPerLaunch && first + taken < segment_count; ++taken) {
    const AdamwSegment& segment = segments[first + taken];
    launch.vectorised = launch.vectorised && segment.offset % kAdamwVector == 0;
    launch.segments[taken] = segment;
    launch.first_tile[taken] = tiles;
    tiles += static_cast<std::int32_t>((segment.count + kAdamwTile - 1) / kAdamwTile);
  }
  launch.first_tile[taken] = tiles;
  launch.segment_count = taken;
  return taken;
}

}  // namespace meristem::kernels::detail
