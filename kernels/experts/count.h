// How often each expert stands in each tile of the choices: a histogram a warp, in shared memory.
#pragma once

#include "device/layer.h"
#include "experts/parameters.h"

namespace meristem::kernels::detail {

MERISTEM_KERNEL(kExpertThreads, 1)
expert_count_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const int tile = device::block_index() * kExpertWarps + warp;
  if (tile >= p.tiles) return;
  const device::SharedAddress counts = device::shared_base() + static_cast<device::SharedAddress>(4 * warp * p.experts);
  for (int e = lane; e < p.experts; e += device::kWarp) device::sts(counts + 4 * e, 0);
  device::warp_sync();
  const device::gptr<const std::int64_t> chosen(p.chosen);
  for (int i = tile * kExpertTile + lane; i < (tile + 1) * kExpertTile; i += device::kWarp) {
    if (i < p.choices) device::atomic_add_shared(counts + 4 * static_cast<int>(device::ldg<std::int64_t>(chosen + i)), 1);
  }
  device::warp_sync();
  const device::gptr<std::int32_t> to = device::gptr<std::int32_t>(p.tile_counts) + static_cast<std::int64_t>(tile) * p.experts;
  for (int e = lane; e < p.experts; e += device::kWarp) device::stg(to + e, device::lds<int>(counts + 4 * e));
}

}  // namespace meristem::kernels::detail
