// Shuffles and votes of a whole warp. They move registers and order no memory.
#pragma once

#include "device/nvcc/macros.h"
#include "device/types.h"

namespace meristem::kernels::device {

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

}  // namespace meristem::kernels::device
