// RMSNorm forward: a row is read once, kept in registers, and written; its threads meet once.
#pragma once

#include "rms_norm/parameters.h"
#include "rows/reduce.h"
#include "rows/row.h"

namespace meristem::kernels::detail {

template <class X, int V, int threads>
MERISTEM_KERNEL(kRowThreads, V == 1 ? 1 : 3)  // single elements need a predicate each, and more registers
rms_norm_forward_kernel(const MERISTEM_GRID_CONSTANT RmsNormForward<X> p) {
  constexpr int kRows = kRowThreads / threads, kAccesses = kRowElements / V;
  const std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRows + device::thread_index() / threads;
  const int width = row < p.rows ? p.width : 0;
  const std::int64_t begin = row * p.width;
  Held<X, V, kRowElements> h;
  load_row<V, threads>(h, device::gptr<const X>(p.x) + begin, width);
  if (p.update != nullptr) {
    Held<X, V, kRowElements> update;
    load_row<V, threads>(update, device::gptr<const X>(p.update) + begin, width);
    MERISTEM_UNROLL
    for (int i = 0; i < kAccesses; ++i) {
      h.raw[i] = packed<X, V>([&](int j) { return h[i * V + j] + update[i * V + j]; });
      const int column = column_of<V, threads>(i);
      if (column < width) device::stg(device::gptr<X>(p.h) + (begin + column), h.raw[i]);
    }
  }
  float squares = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < kRowElements; ++i) squares += h[i] * h[i];
  squares = group_sum<threads>(squares, device::shared_base());
  const float rstd = 1.0f / device::square_root(squares / static_cast<float>(p.width) + p.eps);
  if (row < p.rows && device::thread_index() % threads == 0) device::stg(device::gptr<float>(p.rstd) + row, rstd);
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, device::gptr<const float>(p.gain) + column);
    device::stg(device::gptr<X>(p.y) + (begin + column), packed<X, V>([&](int j) { return h[i * V + j] * rstd * gain[j]; }));
  }
}

template <class X>
void launch_rms_norm_forward(const RmsNormForward<X>& p, Stream stream) {
  with_row_share<X>(p.vectorised, p.width, [&]<int V, int threads>() {
    constexpr int kRows = kRowThreads / threads;
    device::launch("rms_norm_forward", rms_norm_forward_kernel<X, V, threads>, (p.rows + kRows - 1) / kRows, kRowThreads,
                   kRowThreads / device::kWarp * 4, stream, p);
  });
}

}  // namespace meristem::kernels::detail
