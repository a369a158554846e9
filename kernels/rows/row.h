// How `threads` neighbours of a block share a row of up to 32 elements a thread: the i-th access of thread t holds columns (i threads + t)
// V to that + V - 1. So neighbours touch neighbouring bytes, and a row is read once and kept in registers.
#pragma once

#include "rows/elements.h"

namespace meristem::kernels::detail {

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

}  // namespace meristem::kernels::detail
