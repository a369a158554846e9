// How `threads` neighbours of a block share a row of up to 32 elements a thread, what they sum over it, and the sums over all rows.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"
#include "rows/elements.h"

namespace meristem::kernels::detail {

// The i-th access of thread t holds columns (i threads + t) V to that + V - 1. So neighbours touch neighbouring bytes, and a row is read
// once and kept in registers.
inline constexpr int kRowThreads = 256;  // of a block
inline constexpr int kRowElements = 32;  // of a thread

template <int V, int threads>
MERISTEM_DEVICE int column_of(int access) {
  return (access * threads + device::thread_index() % threads) * V;
}

// The thread's part of a row of `width` elements, zeros beyond its end.
template <int V, int threads, class X>
MERISTEM_DEVICE void load_row(Held<X, V, kRowElements>& to, device::gptr<const X> row, int width) {
  MERISTEM_UNROLL
  for (int i = 0; i < kRowElements / V; ++i) {
    const int column = column_of<V, threads>(i);
    to.raw[i] = column < width ? device::ldg<Access<X, V>>(row + column) : Access<X, V>{};
  }
}

// Calls launch<V, threads>() for the narrowest share that holds `width`; rows that are not aligned have one for all widths.
template <class X, class Launch>
void with_row_share(bool vectorised, int width, const Launch& launch) {
  if (!vectorised) return launch.template operator()<1, 256>();
  if (width <= 32 * kRowElements) return launch.template operator()<kVector<X>, 32>();
  if (width <= 64 * kRowElements) return launch.template operator()<kVector<X>, 64>();
  if (width <= 128 * kRowElements) return launch.template operator()<kVector<X>, 128>();
  launch.template operator()<kVector<X>, 256>();
}

// Sums have a fixed tree: equal bits on every run. The sum over each group of `threads` neighbours (a power of two; whole warps beyond 32)
// for all of them. A group wider than a warp passes its warps' sums through shared memory: all threads of the block call, and `scratch`
// (one T a warp) must not be the last call's, whose readers may still be at it.
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

// Blocks of the first stage of a gain's gradient, which walk over all rows: two for each multiprocessor, `most` at most, no more than
// `wanted`.
inline int walking_blocks(std::int64_t wanted, int most) {
  const int resident = 2 * device::limits().processors, blocks = resident < most ? resident : most;
  return static_cast<int>(wanted < blocks ? wanted : blocks);
}

// The second stage of a gain's gradient: the blocks of the first have left a row of partial sums each, which are added up in their order.
// partials: [rows, slots]. Slot e threads + t is column (e / vector threads + t) vector + e % vector (as column_of has them; vector and
// threads 1: the slot is the column); those beyond `columns` are dropped.
struct ColumnSums {
  const float* partials;
  int rows, slots;
  float* sums;
  int columns, vector, threads;
};

void launch_column_sums(const ColumnSums& p, Stream stream);

}  // namespace meristem::kernels::detail
