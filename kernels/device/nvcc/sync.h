// Barriers of the block, of a part of it, and of a warp.
#pragma once

#include "device/nvcc/macros.h"
#include "device/types.h"

namespace meristem::kernels::device {

MERISTEM_DEVICE void barrier() { asm volatile("bar.sync 0;" ::: "memory"); }

// Barrier id (1 to 15) of `threads` threads, whole warps: sync waits for the others, arrive does not.
MERISTEM_DEVICE void named_barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
MERISTEM_DEVICE void named_barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Orders the shared-memory accesses of the lanes.
MERISTEM_DEVICE void warp_sync(std::uint32_t lanes = kAllLanes) { __syncwarp(lanes); }

}  // namespace meristem::kernels::device
