// RMSNorm backward. dy and h are read once; a block walks over many rows and keeps its part of the gain's gradient in registers, so that
// there is one row of partial sums a block and no atomic addition.
#pragma once

#include "rms_norm/parameters.h"
#include "rows/column_sums.h"
#include "rows/reduce.h"
#include "rows/row.h"

namespace meristem::kernels::detail {

using GainSums = device::Registers<float, kRowElements>;

// Shared memory: two turns of the rows' sums, then each thread's GainSums.
inline constexpr int kRmsNormTurn = kRowThreads / device::kWarp * 4;
inline constexpr int kRmsNormBackwardShared = 2 * kRmsNormTurn + kRowThreads * kRowElements * 4;

// One row: writes its dx and adds to the thread's sums. scratch: this turn's.
template <class X, int V, int threads>
MERISTEM_DEVICE void rms_norm_backward_row(const RmsNormBackward<X>& p, std::int64_t row, device::SharedAddress scratch, GainSums& d_gain) {
  constexpr int kAccesses = kRowElements / V;
  const int width = row < p.rows ? p.width : 0;
  const std::int64_t begin = row * p.width;
  const device::gptr<const float> gains(p.gain);
  Held<X, V, kRowElements> h, dy;
  load_row<V, threads>(h, device::gptr<const X>(p.h) + begin, width);
  load_row<V, threads>(dy, device::gptr<const X>(p.dy) + begin, width);
  const float rstd = row < p.rows ? device::ldg<float>(device::gptr<const float>(p.rstd) + row) : 0.0f;
  float dot = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, gains + column);
    MERISTEM_UNROLL
    for (int j = 0; j < V; ++j) dot += gain[j] * dy[i * V + j] * h[i * V + j];
  }
  const float mean = group_sum<threads>(dot, scratch) * rstd * rstd / static_cast<float>(p.width);
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    MERISTEM_UNROLL
    for (int j = 0; j < V; ++j) d_gain[i * V + j] += dy[i * V + j] * h[i * V + j] * rstd;
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, gains + column);
    Held<X, V, V> dh;
    dh.raw[0] = p.dh == nullptr ? Access<X, V>{} : device::ldg<Access<X, V>>(device::gptr<const X>(p.dh) + (begin + column));
    device::stg(device::gptr<X>(p.dx) + (begin + column),
                packed<X, V>([&](int j) { return dh[j] + rstd * (gain[j] * dy[i * V + j] - h[i * V + j] * mean); }));
  }
}

// The block's sums over its groups of threads become its row of partials, slot by slot (ColumnSums).
template <int threads>
MERISTEM_DEVICE void write_gain_sums(const GainSums& d_gain, device::SharedAddress shared, float* partials) {
  constexpr int kSlots = threads * kRowElements;
  const device::gptr<float> to = device::gptr<float>(partials) + static_cast<std::int64_t>(device::block_index()) * kSlots;
  const int thread = device::thread_index() % threads, group = device::thread_index() / threads;
  const auto place = [&](int of_group, int slot) { return shared + static_cast<device::SharedAddress>((of_group * kSlots + slot) * 4); };
  MERISTEM_UNROLL
  for (int e = 0; e < kRowElements; ++e) device::sts(place(group, e * threads + thread), d_gain[e]);
  device::barrier();
  for (int slot = device::thread_index(); slot < kSlots; slot += kRowThreads) {
    float sum = 0;
    MERISTEM_UNROLL
    for (int g = 0; g < kRowThreads / threads; ++g) sum += device::lds<float>(place(g, slot));
    device::stg(to + slot, sum);
  }
}

template <class X, int V, int threads>
MERISTEM_KERNEL(kRowThreads, V == 1 ? 1 : 2)
rms_norm_backward_kernel(const MERISTEM_GRID_CONSTANT RmsNormBackward<X> p) {
  constexpr int kRows = kRowThreads / threads;
  const int group = device::thread_index() / threads;
  GainSums d_gain;
  MERISTEM_UNROLL
  for (int e = 0; e < kRowElements; ++e) d_gain[e] = 0;
  device::SharedAddress turn = 0;
  for (std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRows; row < p.rows;
       row += static_cast<std::int64_t>(device::block_count()) * kRows) {
    rms_norm_backward_row<X, V, threads>(p, row + group, device::shared_base() + turn, d_gain);
    turn ^= kRmsNormTurn;
  }
  write_gain_sums<threads>(d_gain, device::shared_base() + 2 * kRmsNormTurn, p.partials);
}

template <class X>
void launch_rms_norm_backward(const RmsNormBackward<X>& p, Stream stream) {
  with_row_share<X>(p.vectorised, p.width, [&]<int V, int threads>() {
    constexpr int kRows = kRowThreads / threads;
    const std::int64_t wanted = (p.rows + kRows - 1) / kRows;
    const int blocks = static_cast<int>(wanted < kRmsNormPartials ? wanted : kRmsNormPartials);
    device::launch("rms_norm_backward", rms_norm_backward_kernel<X, V, threads>, blocks, kRowThreads, kRmsNormBackwardShared, stream, p);
    launch_column_sums({p.partials, blocks, threads * kRowElements, p.d_gain, p.width, V, threads}, stream);
  });
}

}  // namespace meristem::kernels::detail
