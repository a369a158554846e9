// What both sides of the layer share: plain types, and the macros of a kernel's source.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MERISTEM_DEVICE __device__ __forceinline__
// threads: of a block, exactly; blocks: at least that many on an SM, which caps the registers.
#define MERISTEM_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define MERISTEM_UNROLL _Pragma("unroll")
#define MERISTEM_NO_UNROLL _Pragma("unroll 1")
#define MERISTEM_GRID_CONSTANT __grid_constant__
#else
#define MERISTEM_DEVICE inline
#define MERISTEM_KERNEL(threads, blocks) inline void
#define MERISTEM_UNROLL
#define MERISTEM_NO_UNROLL
#define MERISTEM_GRID_CONSTANT
#endif

namespace meristem::kernels::device {

inline constexpr int kWarp = 32;  // lanes
inline constexpr std::uint32_t kAllLanes = 0xFFFFFFFFu;

using SharedAddress = std::uint32_t;  // bytes in the block's shared-memory window

// What one 16-byte access moves.
struct alignas(16) Vec4 {
  std::uint32_t x[4];
};
struct alignas(8) Vec2 {
  std::uint32_t x[2];
};

// What a launch is chosen by: multiprocessors, and bytes of shared memory that one of them and one of its blocks may have. limits() has the
// current device's.
struct Limits {
  int processors, shared_of_processor, shared_of_block;
};
// Whether `blocks` blocks with so many bytes of shared memory are at home on one multiprocessor; each costs 1 KiB on top.
inline bool fits(const Limits& of, int shared_bytes, int blocks) {
  return shared_bytes <= of.shared_of_block && blocks * (shared_bytes + 1024) <= of.shared_of_processor;
}

}  // namespace meristem::kernels::device
