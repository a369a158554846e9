// Where each choice goes: behind the earlier experts' rows, behind its own expert's of earlier tiles, and behind those of its own tile that
// stand before it.
#pragma once

#include "device/layer.h"
#include "experts/parameters.h"

namespace meristem::kernels::detail {

// The sum of the lanes' values up to and with this lane's.
MERISTEM_DEVICE int sum_up_to_lane(int value) {
  const int lane = device::lane_index();
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const int before = device::shuffle(value, lane - distance);
    value += lane >= distance ? before : 0;
  }
  return value;
}

// The first row of each expert, into shared memory: `starts` [E], and `sums`, a number a warp. The first block writes `ends`.
MERISTEM_DEVICE void scan_experts(const ExpertSortParameters& p, device::SharedAddress starts, device::SharedAddress sums) {
  const device::gptr<const std::int32_t> counts(p.counts);
  const int share = (p.experts + kExpertThreads - 1) / kExpertThreads, first = device::thread_index() * share;
  const int last = first + share < p.experts ? first + share : p.experts;
  int sum = 0;
  for (int e = first; e < last; ++e) sum += device::ldg<std::int32_t>(counts + e);
  const int up_to = sum_up_to_lane(sum);
  if (device::lane_index() == device::kWarp - 1) device::sts(sums + 4 * device::warp_index(), up_to);
  device::barrier();
  int start = up_to - sum;
  for (int w = 0; w < device::warp_index(); ++w) start += device::lds<int>(sums + 4 * w);
  for (int e = first; e < last; ++e) {
    device::sts(starts + 4 * e, start);
    start += device::ldg<std::int32_t>(counts + e);
    if (device::block_index() == 0) device::stg(device::gptr<std::int32_t>(p.ends) + e, start);
  }
  device::barrier();
}

// The lanes that hold the same number below `most` as this one, among those where `valid` holds.
MERISTEM_DEVICE std::uint32_t lanes_alike(int number, int most, bool valid) {
  std::uint32_t alike = device::ballot(valid);
  for (int bit = 0; (most - 1) >> bit > 0; ++bit) {
    const bool set = (number >> bit & 1) != 0;
    const std::uint32_t others = device::ballot(set);
    alike &= set ? others : ~others;
  }
  return alike;
}

MERISTEM_KERNEL(kExpertThreads, 1)
expert_place_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const int tile = device::block_index() * kExpertWarps + warp;
  const device::SharedAddress starts = device::shared_base(), sums = starts + static_cast<device::SharedAddress>(4 * p.experts);
  scan_experts(p, starts, sums);
  if (tile >= p.tiles) return;
  // The row that the next choice of each expert goes to.
  const device::SharedAddress next = sums + static_cast<device::SharedAddress>(4 * (kExpertWarps + warp * p.experts));
  const device::gptr<const std::int32_t> before =
      device::gptr<const std::int32_t>(p.tile_counts) + static_cast<std::int64_t>(tile) * p.experts;
  for (int e = lane; e < p.experts; e += device::kWarp) {
    device::sts(next + 4 * e, device::lds<int>(starts + 4 * e) + device::ldg<std::int32_t>(before + e));
  }
  device::warp_sync();
  for (int first = tile * kExpertTile; first < (tile + 1) * kExpertTile; first += device::kWarp) {
    const int i = first + lane;
    const bool valid = i < p.choices;
    const int expert = valid ? static_cast<int>(device::ldg<std::int64_t>(device::gptr<const std::int64_t>(p.chosen) + i)) : 0;
    const std::uint32_t alike = lanes_alike(expert, p.experts, valid);
    const int rank = device::count_bits(alike & ((1u << lane) - 1));
    const int row = device::lds<int>(next + 4 * expert);
    device::warp_sync();
    if (valid) {
      device::stg(device::gptr<std::int32_t>(p.place) + i, row + rank);
      if (rank == 0) device::sts(next + 4 * expert, row + device::count_bits(alike));
    }
    device::warp_sync();
  }
}

}  // namespace meristem::kernels::detail
