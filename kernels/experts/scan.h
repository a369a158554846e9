// Turns each tile's counts into those of the tiles before it, and sums them up. A block has 32 experts, one a lane, so that a warp reads
// counts side by side; its warps share out the tiles.
#pragma once

#include "device/layer.h"
#include "experts/parameters.h"

namespace meristem::kernels::detail {

inline constexpr int kScanWarps = 16, kScanThreads = 32 * kScanWarps, kScanShared = 4 * kScanThreads;

MERISTEM_KERNEL(kScanThreads, 1)
expert_scan_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const int expert = device::block_index() * device::kWarp + lane;
  const int share = (p.tiles + kScanWarps - 1) / kScanWarps;
  const int first = warp * share, last = first + share < p.tiles ? first + share : p.tiles;
  const device::gptr<std::int32_t> counts = device::gptr<std::int32_t>(p.tile_counts) + expert;
  int sum = 0;
  if (expert < p.experts) {
    for (int tile = first; tile < last; ++tile) sum += device::ldg<std::int32_t>(counts + static_cast<std::int64_t>(tile) * p.experts);
  }
  const device::SharedAddress sums = device::shared_base();
  device::sts(sums + 4 * (warp * device::kWarp + lane), sum);
  device::barrier();
  if (expert >= p.experts) return;
  int before = 0, all = 0;
  for (int w = 0; w < kScanWarps; ++w) {
    const int of_warp = device::lds<int>(sums + 4 * (w * device::kWarp + lane));
    before += w < warp ? of_warp : 0;
    all += of_warp;
  }
  for (int tile = first; tile < last; ++tile) {
    const device::gptr<std::int32_t> at = counts + static_cast<std::int64_t>(tile) * p.experts;
    const int here = device::ldg<std::int32_t>(at);
    device::stg(at, before);
    before += here;
  }
  if (warp == 0) device::stg(device::gptr<std::int32_t>(p.counts) + expert, all);
}

}  // namespace meristem::kernels::detail
