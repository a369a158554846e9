// Sums over the threads that share a row, in a fixed tree: equal bits on every run.
#pragma once

#include "device/layer.h"

namespace meristem::kernels::detail {

// The sum over each group of `threads` neighbours (a power of two; whole warps beyond 32) for all of them. A group wider than a warp passes
// its warps' sums through shared memory: all threads of the block call, and `scratch` (one T a warp) must not be the last call's, whose
// readers may still be at it.
template <int threads, class T>
MERISTEM_DEVICE T group_sum(T value, device::SharedAddress scratch) {
  constexpr int kLanes = threads < device::kWarp ? threads : device::kWarp, kWarps = threads / kLanes;
  MERISTEM_UNROLL
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) value += device::shuffle_xor(value, lanes);
  if constexpr (kWarps > 1) {
    const int warp = device::warp_index(), first = warp / kWarps * kWarps;
    const auto place = [&](int i) {
      return scratch + static_cast<device::SharedAddress>(i) * static_cast<device::SharedAddress>(sizeof(T));
    };
    if (device::lane_index() == 0) device::sts(place(warp), value);
    device::barrier();
    value = 0;
    MERISTEM_UNROLL
    for (int i = 0; i < kWarps; ++i) value += device::lds<T>(place(first + i));
  }
  return value;
}

}  // namespace meristem::kernels::detail
