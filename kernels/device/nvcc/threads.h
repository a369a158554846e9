// Threads: where one stands, barriers, shuffles and votes, and the launch that starts them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device/base.h"

namespace meristem::kernels::detail {

inline void check_launch(const char* kernel) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error(std::string("kernel ") + kernel + " could not be launched: " + cudaGetErrorString(error));
  }
}

inline void check_grid(const char* kernel, std::int64_t blocks) {
  if (blocks > 0x7FFFFFFF) throw std::runtime_error(std::string("kernel ") + kernel + ": more than 2^31 - 1 blocks");
}

}  // namespace meristem::kernels::detail

namespace meristem::kernels::device {

// Grids and blocks are one-dimensional: x reaches 2^31 - 1 blocks, y only 65,535.
MERISTEM_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
MERISTEM_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
MERISTEM_DEVICE int block_count() { return static_cast<int>(gridDim.x); }
MERISTEM_DEVICE int lane_index() { return static_cast<int>(threadIdx.x & 31); }
MERISTEM_DEVICE int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

MERISTEM_DEVICE void barrier() { asm volatile("bar.sync 0;" ::: "memory"); }

// Barrier id (1 to 15) of `threads` threads, whole warps: sync waits for the others, arrive does not.
MERISTEM_DEVICE void named_barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
MERISTEM_DEVICE void named_barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Orders the shared-memory accesses of the lanes.
MERISTEM_DEVICE void warp_sync(std::uint32_t lanes = kAllLanes) { __syncwarp(lanes); }

// Shuffles and votes of a whole warp. They move registers and order no memory.
template <class T>
MERISTEM_DEVICE T shuffle(T value, int lane, std::uint32_t lanes = kAllLanes) {
  return __shfl_sync(lanes, value, lane);
}
template <class T>
MERISTEM_DEVICE T shuffle_xor(T value, int lane_mask, std::uint32_t lanes = kAllLanes) {
  return __shfl_xor_sync(lanes, value, lane_mask);
}
template <class T>
MERISTEM_DEVICE T shuffle_down(T value, int delta, std::uint32_t lanes = kAllLanes) {
  return __shfl_down_sync(lanes, value, delta);
}
MERISTEM_DEVICE std::uint32_t ballot(bool yes, std::uint32_t lanes = kAllLanes) { return __ballot_sync(lanes, yes); }
MERISTEM_DEVICE bool any(bool yes, std::uint32_t lanes = kAllLanes) { return __any_sync(lanes, yes); }
MERISTEM_DEVICE bool all(bool yes, std::uint32_t lanes = kAllLanes) { return __all_sync(lanes, yes); }

inline Limits limits() {
  int device = 0;
  Limits found{};
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&found.processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&found.shared_of_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&found.shared_of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  detail::check_launch("of a device that tells its limits");
  return found;
}

// Starts a kernel whose one argument is a struct of parameters.
template <class Parameters>
void launch(const char* name, void (*kernel)(Parameters), std::int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
            const Parameters& parameters) {
  if (blocks == 0) return;
  detail::check_grid(name, blocks);
  if (shared_bytes > 48 * 1024) {  // above what every device grants unasked
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    detail::check_launch(name);
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(parameters);
  detail::check_launch(name);
}

}  // namespace meristem::kernels::device
