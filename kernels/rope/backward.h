// The gradient of RoPE behind the norm of each head. A warp walks over rows and keeps its lanes' parts of the two gains' gradients in
// registers: one row of partial sums a block, no atomic addition.
#pragma once

#include "rope/head.h"
#include "rows/column_sums.h"

namespace meristem::kernels::detail {

// A lane's sums for the queries' and the keys' gain, each of first and second half.
struct HeadGainSums {
  Pairs of[4];
};
inline constexpr int kRopeSums = 4 * kRopePairs;  // of a lane
// [sum][thread], each line longer by a head's lanes so that lines begin in other banks.
inline constexpr int kRopeBackwardShared = kRopeSums * (kRopeThreads + device::kWarp) * 4;

template <int V, class X>
MERISTEM_DEVICE void qk_norm_rope_backward_head(const RopeParameters<X>& p, std::int64_t row, int head, const Angles& turn,
                                                const RopeLane<V>& at, HeadGainSums& sums) {
  const bool valid = head < p.heads, query = head < p.norm.query_heads;
  const std::int64_t column = static_cast<std::int64_t>(head) * 2 * p.half;
  const device::gptr<const X> x = device::gptr<const X>(p.x.data) + (row * p.x.stride + column);
  const device::gptr<const X> dy = device::gptr<const X>(p.dy.data) + (row * p.dy.stride + column);
  HalfHead<X, V> x_low, x_high, dy_low, dy_high;
  load_half<V>(x_low, x, at, valid);
  load_half<V>(x_high, x + p.half, at, valid);
  load_half<V>(dy_low, dy, at, valid);
  load_half<V>(dy_high, dy + p.half, at, valid);
  const device::gptr<const float> gain(query ? p.norm.q_gain : p.norm.k_gain);
  Pairs gain_low, gain_high, dz_low, dz_high;
  load_pairs<V>(gain_low, gain, at);
  load_pairs<V>(gain_high, gain + p.half, at);
  float squares = 0, dot = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs; ++i) {
    dz_low[i] = dy_low[i] * turn.cos[i] - dy_high[i] * turn.sin[i];
    dz_high[i] = dy_high[i] * turn.cos[i] + dy_low[i] * turn.sin[i];
    squares += x_low[i] * x_low[i] + x_high[i] * x_high[i];
    dot += gain_low[i] * dz_low[i] * x_low[i] + gain_high[i] * dz_high[i] * x_high[i];
  }
  const float dim = static_cast<float>(2 * p.half);
  const float spread = device::square_root(at.sum(squares) / dim + p.norm.eps), rstd = valid ? 1.0f / spread : 0.0f;
  const float mean = at.sum(dot) * rstd * rstd / dim;
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs; ++i) {
    const float low = dz_low[i] * x_low[i] * rstd, high = dz_high[i] * x_high[i] * rstd;
    sums.of[0][i] += query ? low : 0.0f;
    sums.of[1][i] += query ? high : 0.0f;
    sums.of[2][i] += query ? 0.0f : low;
    sums.of[3][i] += query ? 0.0f : high;
  }
  const device::gptr<X> dx = device::gptr<X>(p.out.data) + (row * p.out.stride + column);
  store_half<V>(dx, at, valid, [&](int i) { return rstd * (gain_low[i] * dz_low[i] - x_low[i] * mean); });
  store_half<V>(dx + p.half, at, valid, [&](int i) { return rstd * (gain_high[i] * dz_high[i] - x_high[i] * mean); });
}

// The block's sums over all groups of lanes become its row of partials, column by column.
template <int V, class X>
MERISTEM_DEVICE void write_head_gain_sums(const RopeParameters<X>& p, const HeadGainSums& sums) {
  const auto place = [&](int sum, int thread) {
    return device::shared_base() + static_cast<device::SharedAddress>((sum * (kRopeThreads + p.lanes) + thread) * 4);
  };
  MERISTEM_UNROLL
  for (int part = 0; part < 4; ++part) {
    MERISTEM_UNROLL
    for (int i = 0; i < kRopePairs; ++i) device::sts(place(part * kRopePairs + i, device::thread_index()), sums.of[part][i]);
  }
  device::barrier();
  const device::gptr<float> to = device::gptr<float>(p.partials) + static_cast<std::int64_t>(device::block_index()) * 4 * p.half;
  for (int slot = device::thread_index(); slot < kRopeSums * p.lanes; slot += kRopeThreads) {
    const int sum = slot / p.lanes, lane = slot % p.lanes, part = sum / kRopePairs, pair = sum % kRopePairs;
    const int column = (pair / V * p.lanes + lane) * V + pair % V;
    if (column >= p.half) continue;
    float total = 0;
    for (int thread = lane; thread < kRopeThreads; thread += p.lanes) total += device::lds<float>(place(sum, thread));
    device::stg(to + part * p.half + column, total);
  }
}

template <class X, int V>
MERISTEM_KERNEL(kRopeThreads, V == 1 ? 1 : 2)
qk_norm_rope_backward_kernel(const MERISTEM_GRID_CONSTANT RopeParameters<X> p) {
  const RopeLane<V> at(p);
  HeadGainSums sums;
  MERISTEM_UNROLL
  for (int part = 0; part < 4; ++part) {
    MERISTEM_UNROLL
    for (int i = 0; i < kRopePairs; ++i) sums.of[part][i] = 0;
  }
  for (std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRopeWarps + device::warp_index(); row < p.rows;
       row += static_cast<std::int64_t>(device::block_count()) * kRopeWarps) {
    Angles turn;
    load_angles<V>(turn, p, row, at);
    for (int first = 0; first < p.heads; first += at.groups()) qk_norm_rope_backward_head<V>(p, row, first + at.group, turn, at, sums);
    copy_rest<V>(p, p.dy, row);
  }
  write_head_gain_sums<V>(p, sums);
}

template <class X>
void launch_qk_norm_rope_backward(const RopeParameters<X>& p, float* d_gains, Stream stream) {
  const std::int64_t wanted = (p.rows + kRopeWarps - 1) / kRopeWarps;
  const int blocks = static_cast<int>(wanted < kRopePartials ? wanted : kRopePartials);
  const auto kernel = p.vectorised ? qk_norm_rope_backward_kernel<X, kVector<X>> : qk_norm_rope_backward_kernel<X, 1>;
  device::launch("qk_norm_rope_backward", kernel, blocks, kRopeThreads, kRopeBackwardShared, stream, p);
  launch_column_sums({p.partials, blocks, 4 * p.half, d_gains, 4 * p.half, 1, 1}, stream);
}

}  // namespace meristem::kernels::detail
