// Where a thread stands. Grids and blocks are one-dimensional: x reaches 2^31 - 1 blocks, y only 65,535.
#pragma once

#include "device/nvcc/macros.h"

namespace meristem::kernels::device {

MERISTEM_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
MERISTEM_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
MERISTEM_DEVICE int block_count() { return static_cast<int>(gridDim.x); }
MERISTEM_DEVICE int lane_index() { return static_cast<int>(threadIdx.x & 31); }
MERISTEM_DEVICE int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

}  // namespace meristem::kernels::device
