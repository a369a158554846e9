// RoPE, with or without the norm of each head before it. A warp has a row: the angles are read once for all its heads. Backward without a
// norm is forward with the other sign. Backward behind the norm, a warp walks over rows and keeps its lanes' parts of the two gains'
// gradients in registers: one row of partial sums a block, no atomic addition.
#include <string>

#include "dense/rope_head.h"
#include "rows/dispatch.h"
#include "rows/row.h"

namespace meristem::kernels {
namespace detail {

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
  const int blocks = walking_blocks(wanted, kRopePartials);
  const auto kernel = p.vectorised ? qk_norm_rope_backward_kernel<X, kVector<X>> : qk_norm_rope_backward_kernel<X, 1>;
  device::launch("qk_norm_rope_backward", kernel, blocks, kRopeThreads, kRopeBackwardShared, stream, p);
  launch_column_sums({p.partials, blocks, 4 * p.half, d_gains, 4 * p.half, 1, 1}, stream);
}

void check_rope(const RopeShape& shape) {
  require(shape.rows >= 0 && shape.heads >= 0 && shape.head_dim >= 2 && shape.head_dim <= kRopeMaxHeadDim && shape.head_dim % 2 == 0,
          "rope",
          std::to_string(shape.heads) + " heads of dim " + std::to_string(shape.head_dim) + "; allowed: even dims from 2 to " +
              std::to_string(kRopeMaxHeadDim));
}

// As few lanes as hold half a head at eight pairs each.
int rope_lanes(int half) {
  int lanes = 1;
  while (8 * lanes < half) lanes *= 2;
  return lanes;
}

template <class X, class Y>
bool rope_rows_aligned(const RopeRows<Y>& rows) {
  return rows.data == nullptr || rows_aligned<X>(rows.stride, rows.data);
}

// x, dy, out: as RopeParameters has them.
template <class X>
RopeParameters<X> rope_parameters(const RopeShape& shape, const QkNorm& norm, int columns, RopeRows<const X> x, RopeRows<const X> dy,
                                  RopeRows<X> out, float sign) {
  const int half = shape.head_dim / 2;
  const bool aligned = rows_aligned<X>(half, norm.q_gain, norm.k_gain) && rows_aligned<X>(columns) &&
                       rows_aligned<float>(half, shape.cos, shape.sin) && rope_rows_aligned<X>(x) && rope_rows_aligned<X>(dy) &&
                       rope_rows_aligned<X>(out);
  return {shape.rows, shape.heads, half, rope_lanes(half), columns, aligned, shape.positions, shape.cos, shape.sin, sign, norm,
          x,          dy,          out,  nullptr};
}

void check_norm(const RopeShape& shape, const QkNorm& norm, int columns) {
  require(
      norm.query_heads >= 0 && norm.query_heads <= shape.heads && columns >= shape.heads * shape.head_dim, "rope",
      std::to_string(norm.query_heads) + " query heads of " + std::to_string(shape.heads) + " in " + std::to_string(columns) + " columns");
}

}  // namespace detail

void rope(const RopeShape& shape, void* x, std::int64_t stride, float sign, Stream stream) {
  detail::check_rope(shape);
  detail::with_element(shape.element, [&]<class X>() {
    X* data = detail::as<X>(x);
    detail::launch_rope(detail::rope_parameters<X>(shape, {}, shape.heads * shape.head_dim, {data, stride}, {}, {data, stride}, sign),
                        stream);
  });
}

void qk_norm_rope_forward(const RopeShape& shape, const QkNorm& norm, int columns, const void* x, std::int64_t x_stride, void* y,
                          std::int64_t y_stride, Stream stream) {
  detail::check_rope(shape);
  detail::check_norm(shape, norm, columns);
  detail::with_element(shape.element, [&]<class X>() {
    detail::launch_qk_norm_rope(
        detail::rope_parameters<X>(shape, norm, columns, {detail::as<X>(x), x_stride}, {}, {detail::as<X>(y), y_stride}, 1), stream);
  });
}

void qk_norm_rope_backward(const RopeShape& shape, const QkNorm& norm, int columns, const void* dy, std::int64_t dy_stride, const void* x,
                           std::int64_t x_stride, void* dx, std::int64_t dx_stride, float* d_gains, float* partials, Stream stream) {
  detail::check_rope(shape);
  detail::check_norm(shape, norm, columns);
  detail::with_element(shape.element, [&]<class X>() {
    auto p = detail::rope_parameters<X>(shape, norm, columns, {detail::as<X>(x), x_stride}, {detail::as<X>(dy), dy_stride},
                                        {detail::as<X>(dx), dx_stride}, -1);
    p.partials = partials;
    detail::launch_qk_norm_rope_backward(p, d_gains, stream);
  });
}

}  // namespace meristem::kernels
