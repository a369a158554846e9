// The backward kernel: one pass over the entries. Everything that a key head's row of a token gets or gives lies with its own lanes, so
// each gradient is summed in registers and written once.
#include "depth_attention/lanes.h"

namespace meristem::kernels {
namespace detail {

struct DepthBackwardParameters {
  DepthAttentionShape shape;
  DepthLanes split;
  bool add;  // to dq
  DepthInput q, out, d_out;
  DepthLogSumExp log_sum_exp;
  DepthOutput dq;
  DepthEntries entries;
  DepthEntryGradient d_keys[kDepthEntries], d_values[kDepthEntries];
};
// What a kernel's arguments may take from compute capability 7.0 on.
static_assert(sizeof(DepthBackwardParameters) <= 32764);

template <int heads, int chunks>
inline constexpr int kBackwardBatch = heads == 4 ? 2 : 4 / chunks;
template <int heads, int chunks>
inline constexpr int kBackwardBlocks = heads * chunks <= 2 ? 4
                                       : chunks == 4       ? 2
                                                           : 3;  // of an SM

// The queries' side of a row: what stays in registers for all entries.
template <int heads, int chunks>
struct DepthRow {
  Registers<Vec4, heads * chunks> q, d_out;
  Registers<float, heads> delta, log_sum_exp;  // d_out . out; base 2, infinite for a head that is not there: its weights are 0
  Registers<ChunkSum, heads * chunks> dq;
};

template <int heads, int chunks>
MERISTEM_DEVICE void load_row(DepthRow<heads, chunks>& row, const DepthBackwardParameters& p, const DepthLane& lane) {
  load_queries<heads, chunks>(row.q, p.q, lane);
  load_queries<heads, chunks>(row.d_out, p.d_out, lane);
  Registers<Vec4, heads * chunks> out;
  load_queries<heads, chunks>(out, p.out, lane);
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    row.delta[h] = dot_chunks<chunks>(row.d_out, h * chunks, out, h * chunks);
    row.log_sum_exp[h] = device::infinity();
    if (lane.has_head(h)) row.log_sum_exp[h] = kDepthLog2E * device::ldg<float>(log_sum_exp_of(p.log_sum_exp, lane, h));
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) set_zero(row.dq[h * chunks + c]);
  }
  sum_over_lanes(row.delta, 1, lane.lanes);
}

// This lane's chunk c of an entry's gradient.
MERISTEM_DEVICE void write_entry_gradient(ChunkSum& sum, const DepthEntryGradient& to, const DepthLane& lane, int c) {
  if (!lane.has(c)) return;
  if (to.mode == DepthGradient::kAdd) add_scaled(sum, 1, load_chunk(to.rows, lane, lane.key_column(c), true));
  store_chunk(to.rows, lane, lane.key_column(c), scaled_chunk(sum, 1));
}

// One entry: writes its gradients and adds its part of dq. `first`: its first chunk in keys and values.
template <int heads, int chunks, int count>
MERISTEM_DEVICE void take_entry(DepthRow<heads, chunks>& row, const DepthBackwardParameters& p, const DepthLane& lane, int entry,
                                const Registers<Vec4, count>& keys, const Registers<Vec4, count>& values, int first) {
  Registers<float, 2 * heads> dots;  // q . k, then d_out . v
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    dots[h] = dot_chunks<chunks>(row.q, h * chunks, keys, first);
    dots[heads + h] = dot_chunks<chunks>(row.d_out, h * chunks, values, first);
  }
  sum_over_lanes(dots, 1, lane.lanes);
  Registers<float, heads> weight, d_score;
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    weight[h] = device::exp2_fast(dots[h] * (p.shape.scale * kDepthLog2E) - row.log_sum_exp[h]);
    d_score[h] = weight[h] * (dots[heads + h] - row.delta[h]) * p.shape.scale;
  }
  MERISTEM_UNROLL
  for (int c = 0; c < chunks; ++c) {
    ChunkSum d_key, d_value;
    set_zero(d_key);
    set_zero(d_value);
    MERISTEM_UNROLL
    for (int h = 0; h < heads; ++h) {
      add_scaled(d_key, d_score[h], row.q[h * chunks + c]);
      add_scaled(d_value, weight[h], row.d_out[h * chunks + c]);
      add_scaled(row.dq[h * chunks + c], d_score[h], keys[first + c]);
    }
    sum_over_lanes(d_key, lane.lanes, lane.lanes * p.split.parts);
    sum_over_lanes(d_value, lane.lanes, lane.lanes * p.split.parts);
    if (lane.part == 0) write_entry_gradient(d_key, p.d_keys[entry], lane, c);
    if (lane.part == p.split.parts - 1) write_entry_gradient(d_value, p.d_values[entry], lane, c);
  }
}

template <int heads, int chunks>
MERISTEM_DEVICE void write_query_gradient(DepthRow<heads, chunks>& row, const DepthBackwardParameters& p, const DepthLane& lane) {
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) {
      if (!lane.has_head(h) || !lane.has(c)) continue;
      const int column = lane.query_column(h, c);
      if (p.add) add_scaled(row.dq[h * chunks + c], 1, load_chunk(p.dq, lane, column, true));
      store_chunk(p.dq, lane, column, scaled_chunk(row.dq[h * chunks + c], 1));
    }
  }
}

template <int heads, int chunks>
MERISTEM_KERNEL(kDepthThreads, (kBackwardBlocks<heads, chunks>))
depth_attention_backward_kernel(const MERISTEM_GRID_CONSTANT DepthBackwardParameters p) {
  constexpr int kBatch = kBackwardBatch<heads, chunks>;
  const DepthLane lane = depth_lane(p.shape, p.split, heads);
  DepthRow<heads, chunks> row;
  load_row(row, p, lane);
  for (int first = 0; first < p.shape.entries; first += kBatch) {
    Registers<Vec4, kBatch * chunks> keys, values;
    load_entries<kBatch, chunks>(keys, values, p, lane, first);
    MERISTEM_UNROLL
    for (int u = 0; u < kBatch; ++u) {
      if (first + u < p.shape.entries) take_entry(row, p, lane, first + u, keys, values, u * chunks);
    }
  }
  write_query_gradient(row, p, lane);
}

template <int heads, int chunks>
void launch_depth_backward(const DepthBackwardParameters& p, Stream stream) {
  device::launch("depth_attention_backward", depth_attention_backward_kernel<heads, chunks>, depth_blocks(p.shape, p.split), kDepthThreads,
                 0, stream, p);
}

}  // namespace detail

void depth_attention_backward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                              DepthInput out, DepthInput d_out, DepthLogSumExp log_sum_exp, DepthOutput dq, DepthGradient dq_mode,
                              const DepthEntryGradient* d_keys, const DepthEntryGradient* d_values, Stream stream) {
  detail::check(shape, 0);
  detail::check(q, "q");
  detail::check(out, "out");
  detail::check(d_out, "d_out");
  detail::check(dq, "dq");
  detail::DepthBackwardParameters p{shape, detail::split_of(shape), dq_mode == DepthGradient::kAdd, q, out, d_out, log_sum_exp, dq, {}, {},
                                    {}};
  detail::copy_table(p.entries.keys, keys, shape.entries, "key");
  detail::copy_table(p.entries.values, values, shape.entries, "value");
  detail::copy_table(p.d_keys, d_keys, shape.entries, "key gradient");
  detail::copy_table(p.d_values, d_values, shape.entries, "value gradient");
  detail::dispatch(shape, [&]<int heads, int chunks>() { detail::launch_depth_backward<heads, chunks>(p, stream); });
}

}  // namespace meristem::kernels
