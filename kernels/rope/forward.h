// RoPE, with or without the norm of each head before it. A warp has a row: the angles are read once for all its heads.
#pragma once

#include "rope/head.h"

namespace meristem::kernels::detail {

template <class X, int V, bool with_norm>
MERISTEM_KERNEL(kRopeThreads, V == 1      ? 2
                              : with_norm ? 3
                                          : 4)
rope_kernel(const MERISTEM_GRID_CONSTANT RopeParameters<X> p) {
  const std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRopeWarps + device::warp_index();
  if (row >= p.rows) return;
  const RopeLane<V> at(p);
  Angles turn;
  load_angles<V>(turn, p, row, at);
  for (int first = 0; first < p.heads; first += at.groups()) {  // all lanes of the warp, as the sums need
    const int head = first + at.group;
    const bool valid = head < p.heads;
    const device::gptr<const X> from = device::gptr<const X>(p.x.data) + (row * p.x.stride + head * 2 * p.half);
    HalfHead<X, V> low, high;
    load_half<V>(low, from, at, valid);
    load_half<V>(high, from + p.half, at, valid);
    Pairs a, b;
    MERISTEM_UNROLL
    for (int i = 0; i < kRopePairs; ++i) a[i] = low[i], b[i] = high[i];
    if constexpr (with_norm) {
      float squares = 0;
      MERISTEM_UNROLL
      for (int i = 0; i < kRopePairs; ++i) squares += a[i] * a[i] + b[i] * b[i];
      const float rstd = 1.0f / device::square_root(at.sum(squares) / static_cast<float>(2 * p.half) + p.norm.eps);
      const device::gptr<const float> gain(head < p.norm.query_heads ? p.norm.q_gain : p.norm.k_gain);
      Pairs gain_low, gain_high;
      load_pairs<V>(gain_low, gain, at);
      load_pairs<V>(gain_high, gain + p.half, at);
      MERISTEM_UNROLL
      for (int i = 0; i < kRopePairs; ++i) a[i] *= rstd * gain_low[i], b[i] *= rstd * gain_high[i];
    }
    const device::gptr<X> to = device::gptr<X>(p.out.data) + (row * p.out.stride + head * 2 * p.half);
    store_half<V>(to, at, valid, [&](int i) { return a[i] * turn.cos[i] - b[i] * turn.sin[i]; });
    store_half<V>(to + p.half, at, valid, [&](int i) { return b[i] * turn.cos[i] + a[i] * turn.sin[i]; });
  }
  copy_rest<V>(p, p.x, row);
}

template <class X, bool with_norm>
void launch_rope_kernel(const RopeParameters<X>& p, Stream stream) {
  const auto kernel = p.vectorised ? rope_kernel<X, kVector<X>, with_norm> : rope_kernel<X, 1, with_norm>;
  device::launch("rope", kernel, (p.rows + kRopeWarps - 1) / kRopeWarps, kRopeThreads, 0, stream, p);
}

template <class X>
void launch_rope(const RopeParameters<X>& p, Stream stream) {
  launch_rope_kernel<X, false>(p, stream);
}
template <class X>
void launch_qk_norm_rope(const RopeParameters<X>& p, Stream stream) {
  launch_rope_kernel<X, true>(p, stream);
}

}  // namespace meristem::kernels::detail
