// Where a thread stands.
#pragma once

#include "device/host/block.h"
#include "device/host/grid.h"

namespace meristem::kernels::device {

inline int thread_index() { return host::Block::current().thread(); }
inline int block_index() { return host::Block::current().index(); }
inline int block_count() { return host::Grid::current().blocks; }
inline int lane_index() { return thread_index() % kWarp; }
inline int warp_index() { return thread_index() / kWarp; }

}  // namespace meristem::kernels::device
