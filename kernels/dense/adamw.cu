// The AdamW kernel: one pass over flat buffers, a tile of one range a block. adamw.md has the bytes.
#include "meristem_kernels/adamw.h"

#include <cstdint>

#include "device/layer.h"

namespace meristem::kernels {
namespace detail {

inline constexpr int kAdamwThreads = 256;
inline constexpr int kAdamwVector = 4;   // elements of one 16-byte access
inline constexpr int kAdamwVectors = 2;  // vectors a thread handles: eight independent loads in flight
inline constexpr int kAdamwTile = kAdamwThreads * kAdamwVector * kAdamwVectors;  // elements of a block
inline constexpr int kAdamwBlocksPerSm = 4;  // 64 registers a thread: 1024 threads with 128 bytes each in flight

// The launch's argument (constant memory): block b works on the last range s with first_tile[s] <= b.
struct AdamwLaunch {
  AdamwBuffers buffers;
  AdamwConstants constants;
  const float* bias_corrections;  // those of the first range
  const float* lr;
  const float* clip_factor;
  int range_count;
  bool vectorised;  // all buffers and offsets allow 16-byte accesses
  std::int32_t first_tile[kAdamwRangesPerLaunch];
  AdamwRange ranges[kAdamwRangesPerLaunch];
};
static_assert(sizeof(AdamwLaunch) <= 4096, "a kernel's arguments");

struct AdamwStep {
  float beta1, beta2, eps, lr, clip_factor, bias_correction1, bias_correction2_sqrt, weight_decay;
};

// Where a tile begins in each buffer, as AdamwRange has it.
struct AdamwPlace {
  std::int64_t grad, master, moments;
};

// A vector's four numbers of each array.
using Four = device::Registers<float, kAdamwVector>;
struct AdamwFours {
  Four p, m, v, g;
};

MERISTEM_DEVICE void update_element(float& p, float& m, float& v, float grad, const AdamwStep& s) {
  const float g = grad * s.clip_factor;
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
  p -= s.lr * s.weight_decay * p;
  p -= s.lr * (m / s.bias_correction1) / (device::square_root(v) / s.bias_correction2_sqrt + s.eps);
}

// The moments and the master are touched once a step: keeping them out of the cache leaves room for what is used again.
template <class T>
MERISTEM_DEVICE void load_four(Four& to, T* from, std::int64_t i) {
  const device::Vec4 words = device::ldg_streaming(device::gptr<T>(from) + i);
  MERISTEM_UNROLL
  for (int j = 0; j < kAdamwVector; ++j) to[j] = device::as_float(words.x[j]);
}
MERISTEM_DEVICE void store_four(float* to, std::int64_t i, const Four& from) {
  device::stg_streaming(device::gptr<float>(to) + i, device::Vec4{{device::as_word(from[0]), device::as_word(from[1]),
                                                                   device::as_word(from[2]), device::as_word(from[3])}});
}

// A tile that lies whole inside its range: every load is issued before the first use.
MERISTEM_DEVICE void update_whole_tile(const AdamwBuffers& of, const AdamwPlace& at, const AdamwStep& step) {
  device::Registers<AdamwFours, kAdamwVectors> held;
  const auto element = [](int k) { return device::thread_index() * kAdamwVector + k * (kAdamwThreads * kAdamwVector); };
  MERISTEM_UNROLL
  for (int k = 0; k < kAdamwVectors; ++k) {
    load_four(held[k].p, of.master, at.master + element(k));
    load_four(held[k].m, of.exp_avg, at.moments + element(k));
    load_four(held[k].v, of.exp_avg_sq, at.moments + element(k));
    load_four(held[k].g, of.grad, at.grad + element(k));
  }
  MERISTEM_UNROLL
  for (int k = 0; k < kAdamwVectors; ++k) {
    AdamwFours& four = held[k];
    MERISTEM_UNROLL
    for (int j = 0; j < kAdamwVector; ++j) update_element(four.p[j], four.m[j], four.v[j], four.g[j], step);
    store_four(of.master, at.master + element(k), four.p);
    store_four(of.exp_avg, at.moments + element(k), four.m);
    store_four(of.exp_avg_sq, at.moments + element(k), four.v);
    if (of.half != nullptr) {
      device::stg(device::gptr<std::uint16_t>(of.half) + at.grad + element(k),
                  device::Vec2{{device::pack_bf16(four.p[0], four.p[1]), device::pack_bf16(four.p[2], four.p[3])}});
    }
  }
}

// The ragged end of a range, or buffers that do not allow 16-byte accesses: element by element. Unrolled, its pointers would spill.
MERISTEM_DEVICE void update_part_of_tile(const AdamwBuffers& of, const AdamwPlace& at, std::int64_t count, const AdamwStep& step) {
  const device::gptr<float> master = device::gptr<float>(of.master) + at.master, exp_avg = device::gptr<float>(of.exp_avg) + at.moments,
                            exp_avg_sq = device::gptr<float>(of.exp_avg_sq) + at.moments;
  const device::gptr<const float> grad = device::gptr<const float>(of.grad) + at.grad;
  MERISTEM_NO_UNROLL
  for (std::int64_t i = device::thread_index(); i < count; i += kAdamwThreads) {
    float p = device::ldg<float>(master + i), m = device::ldg<float>(exp_avg + i), v = device::ldg<float>(exp_avg_sq + i);
    update_element(p, m, v, device::ldg<float>(grad + i), step);
    device::stg(master + i, p);
    device::stg(exp_avg + i, m);
    device::stg(exp_avg_sq + i, v);
    if (of.half != nullptr) {
      device::stg(device::gptr<std::uint16_t>(of.half) + at.grad + i, static_cast<std::uint16_t>(device::pack_bf16(p, 0)));
    }
  }
}

MERISTEM_DEVICE int range_of_tile(const AdamwLaunch& launch, int tile) {
  int low = 0, high = launch.range_count - 1;
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

MERISTEM_KERNEL(kAdamwThreads, kAdamwBlocksPerSm)
adamw_kernel(const MERISTEM_GRID_CONSTANT AdamwLaunch launch) {
  const int block = device::block_index(), index = range_of_tile(launch, block);
  const AdamwRange& range = launch.ranges[index];
  const device::gptr<const float> bias = device::gptr<const float>(launch.bias_corrections) + 2 * index;
  const AdamwStep step{launch.constants.beta1,
                       launch.constants.beta2,
                       launch.constants.eps,
                       device::ldg<float>(device::gptr<const float>(launch.lr)),
                       device::ldg<float>(device::gptr<const float>(launch.clip_factor)),
                       device::ldg<float>(bias),
                       device::ldg<float>(bias + 1),
                       range.weight_decay};
  if (step.clip_factor - step.clip_factor != 0) return;  // infinite or NaN
  const std::int64_t begin = static_cast<std::int64_t>(block - launch.first_tile[index]) * kAdamwTile, left = range.count - begin;
  const AdamwPlace at{range.grad + begin, range.master + begin, range.moments + begin};
  if (launch.vectorised && left >= kAdamwTile) {
    update_whole_tile(launch.buffers, at, step);
  } else {
    update_part_of_tile(launch.buffers, at, left < kAdamwTile ? left : kAdamwTile, step);
  }
}

// Host side: fills the launch with the next ranges from `first` on and returns how many it took; tiles: the blocks to launch.
// Empty ranges get no tile. At most 2^31 - 1 tiles a launch: 4e12 elements.
inline int fill_adamw_launch(AdamwLaunch& launch, const AdamwRange* ranges, int range_count, int first, std::int32_t& tiles) {
  const auto aligned = [](const void* pointer, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0; };
  const AdamwBuffers& at = launch.buffers;
  launch.vectorised =
      aligned(at.master, 16) && aligned(at.exp_avg, 16) && aligned(at.exp_avg_sq, 16) && aligned(at.grad, 16) && aligned(at.half, 8);
  int taken = 0;
  tiles = 0;
  for (; taken < kAdamwRangesPerLaunch && first + taken < range_count; ++taken) {
    const AdamwRange& range = ranges[first + taken];
    launch.vectorised = launch.vectorised && (range.grad | range.master | range.moments) % kAdamwVector == 0;
    launch.ranges[taken] = range;
    launch.first_tile[taken] = tiles;
    tiles += static_cast<std::int32_t>((range.count + kAdamwTile - 1) / kAdamwTile);
  }
  launch.range_count = taken;
  return taken;
}

}  // namespace detail

void adamw(const AdamwBuffers& buffers, const AdamwRange* ranges, int range_count, const AdamwConstants& constants,
           const float* bias_corrections, const float* lr, const float* clip_factor, Stream stream) {
  detail::AdamwLaunch launch{};
  launch.buffers = buffers;
  launch.constants = constants;
  launch.lr = lr;
  launch.clip_factor = clip_factor;
  for (int first = 0; first < range_count;) {
    launch.bias_corrections = bias_corrections + 2 * first;
    std::int32_t tiles = 0;
    first += detail::fill_adamw_launch(launch, ranges, range_count, first, tiles);
    device::launch("adamw", detail::adamw_kernel, tiles, detail::kAdamwThreads, 0, stream, launch);
  }
}

}  // namespace meristem::kernels
