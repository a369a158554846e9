// The largest of the numbers seen so far and the sum of their exponentials relative to it (Milakov & Gimelshein, 2018).
#pragma once

#include "rows/elements.h"

namespace meristem::kernels::detail {

struct RunningSum {
  float max, sum;
};

MERISTEM_DEVICE RunningSum nothing_seen() { return {-device::infinity(), 0.0f}; }

// What exponents are taken relative to: nothing but -infinity has no largest.
MERISTEM_DEVICE float shift_of(float max) { return max == -device::infinity() ? 0.0f : max; }

template <class X>
MERISTEM_DEVICE RunningSum merged(const RunningSum& a, const RunningSum& b) {
  const float max = device::larger(a.max, b.max), shift = shift_of(max);
  return {max, a.sum * exp_for<X>(a.max - shift) + b.sum * exp_for<X>(b.max - shift)};
}

// Takes in the elements of one access: one rescaling for all of them.
template <class X, int V>
MERISTEM_DEVICE void take_in(RunningSum& state, const Held<X, V, V>& x) {
  float max = state.max;
  MERISTEM_UNROLL
  for (int j = 0; j < V; ++j) max = device::larger(max, x[j]);
  const float shift = shift_of(max);
  state.sum *= exp_for<X>(state.max - shift);
  MERISTEM_UNROLL
  for (int j = 0; j < V; ++j) state.sum += exp_for<X>(x[j] - shift);
  state.max = max;
}

// That of all threads, for all of them. scratch: 8 bytes a warp.
template <class X, int threads>
MERISTEM_DEVICE RunningSum block_running_sum(RunningSum state, device::SharedAddress scratch) {
  MERISTEM_UNROLL
  for (int lanes = device::kWarp / 2; lanes > 0; lanes /= 2) {
    const RunningSum other{device::shuffle_xor(state.max, lanes), device::shuffle_xor(state.sum, lanes)};
    state = merged<X>(state, other);
  }
  const auto place = [&](int warp) { return scratch + static_cast<device::SharedAddress>(warp * 8); };
  if (device::lane_index() == 0) {
    device::sts(place(device::warp_index()), state.max);
    device::sts(place(device::warp_index()) + 4, state.sum);
  }
  device::barrier();
  state = nothing_seen();
  MERISTEM_UNROLL
  for (int warp = 0; warp < threads / device::kWarp; ++warp) {
    state = merged<X>(state, {device::lds<float>(place(warp)), device::lds<float>(place(warp) + 4)});
  }
  return state;
}

}  // namespace meristem::kernels::detail
