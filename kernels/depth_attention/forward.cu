// The forward kernel: one pass over the entries with an online softmax. A few entries are under way at once; their scores are summed over
// the lanes together.
#include "depth_attention/lanes.h"

namespace meristem::kernels {
namespace detail {

struct DepthForwardParameters {
  DepthAttentionShape shape;
  DepthLanes split;
  bool join;  // out and log_sum_exp hold a softmax that the entries join
  DepthInput q;
  DepthOutput out;
  DepthLogSumExp log_sum_exp;
  DepthEntries entries;
};

// Entries under way at once: what the registers hold.
template <int heads, int chunks>
inline constexpr int kForwardBatch = heads == 4 ? 2 : 4 / chunks;
template <int heads, int chunks>
inline constexpr int kForwardBlocks = heads * chunks < 3 ? 7 - heads * chunks : 4;  // of an SM

// One query head's softmax so far, in base 2; out: sum of weights times values, not divided yet.
template <int heads, int chunks>
struct DepthSoftmax {
  Registers<float, heads> max, sum;
  Registers<ChunkSum, heads * chunks> out;
};

// Begins with nothing, or with what another attention left in out and log_sum_exp.
template <int heads, int chunks>
MERISTEM_DEVICE void begin(DepthSoftmax<heads, chunks>& state, const DepthForwardParameters& p, const DepthLane& lane) {
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    const bool joins = p.join && lane.has_head(h);
    state.max[h] = -device::infinity();
    state.sum[h] = joins ? 1 : 0;
    if (joins) state.max[h] = kDepthLog2E * device::ldg<float>(log_sum_exp_of(p.log_sum_exp, lane, h));
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) {
      set_zero(state.out[h * chunks + c]);
      if (p.join) add_scaled(state.out[h * chunks + c], 1, load_chunk(p.out, lane, lane.query_column(h, c), joins && lane.has(c)));
    }
  }
}

// Takes in a batch of entries: scores (of -infinity where there is no entry) and values.
template <int heads, int chunks, int batch>
MERISTEM_DEVICE void advance(DepthSoftmax<heads, chunks>& state, int h, const Registers<float, batch * heads>& scores,
                             const Registers<Vec4, batch * chunks>& values) {
  float max = state.max[h];
  MERISTEM_UNROLL
  for (int u = 0; u < batch; ++u) max = scores[u * heads + h] > max ? scores[u * heads + h] : max;
  const float rescale = device::exp2_fast(state.max[h] - max);
  state.max[h] = max;
  state.sum[h] *= rescale;
  MERISTEM_UNROLL
  for (int c = 0; c < chunks; ++c) {
    MERISTEM_UNROLL
    for (int i = 0; i < 8; ++i) state.out[h * chunks + c][i] *= rescale;
  }
  MERISTEM_UNROLL
  for (int u = 0; u < batch; ++u) {
    const float weight = device::exp2_fast(scores[u * heads + h] - max);
    state.sum[h] += weight;
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) add_scaled(state.out[h * chunks + c], weight, values[u * chunks + c]);
  }
}

template <int heads, int chunks>
MERISTEM_DEVICE void finish(const DepthSoftmax<heads, chunks>& state, const DepthForwardParameters& p, const DepthLane& lane) {
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    if (!lane.has_head(h)) continue;
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) {
      if (lane.has(c)) store_chunk(p.out, lane, lane.query_column(h, c), scaled_chunk(state.out[h * chunks + c], 1 / state.sum[h]));
    }
    if (lane.lane == 0) device::stg(log_sum_exp_of(p.log_sum_exp, lane, h), state.max[h] * kDepthLn2 + device::log_fast(state.sum[h]));
  }
}

template <int heads, int chunks>
MERISTEM_KERNEL(kDepthThreads, (kForwardBlocks<heads, chunks>))
depth_attention_forward_kernel(const MERISTEM_GRID_CONSTANT DepthForwardParameters p) {
  constexpr int kBatch = kForwardBatch<heads, chunks>;
  const DepthLane lane = depth_lane(p.shape, p.split, heads);
  const float scale_log2 = p.shape.scale * kDepthLog2E;
  Registers<Vec4, heads * chunks> q;
  load_queries<heads, chunks>(q, p.q, lane);
  DepthSoftmax<heads, chunks> state;
  begin(state, p, lane);
  for (int first = 0; first < p.shape.entries; first += kBatch) {
    Registers<Vec4, kBatch * chunks> keys, values;
    load_entries<kBatch, chunks>(keys, values, p, lane, first);
    Registers<float, kBatch * heads> scores;
    MERISTEM_UNROLL
    for (int u = 0; u < kBatch; ++u) {
      MERISTEM_UNROLL
      for (int h = 0; h < heads; ++h) scores[u * heads + h] = dot_chunks<chunks>(q, h * chunks, keys, u * chunks);
    }
    sum_over_lanes(scores, 1, lane.lanes);
    MERISTEM_UNROLL
    for (int i = 0; i < kBatch * heads; ++i) scores[i] = first + i / heads < p.shape.entries ? scores[i] * scale_log2 : -device::infinity();
    MERISTEM_UNROLL
    for (int h = 0; h < heads; ++h) advance<heads, chunks, kBatch>(state, h, scores, values);
  }
  finish(state, p, lane);
}

template <int heads, int chunks>
void launch_depth_forward(const DepthForwardParameters& p, Stream stream) {
  device::launch("depth_attention_forward", depth_attention_forward_kernel<heads, chunks>, depth_blocks(p.shape, p.split), kDepthThreads, 0,
                 stream, p);
}

void depth_forward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values, DepthOutput out,
                   DepthLogSumExp log_sum_exp, bool join, Stream stream) {
  check(q, "q");
  check(out, "out");
  DepthForwardParameters p{shape, split_of(shape), join, q, out, log_sum_exp, {}};
  copy_table(p.entries.keys, keys, shape.entries, "key");
  copy_table(p.entries.values, values, shape.entries, "value");
  dispatch(shape, [&]<int heads, int chunks>() { launch_depth_forward<heads, chunks>(p, stream); });
}

}  // namespace detail

void depth_attention_forward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                             DepthOutput out, DepthLogSumExp log_sum_exp, Stream stream) {
  detail::check(shape, 1);
  detail::depth_forward(shape, q, keys, values, out, log_sum_exp, false, stream);
}

void depth_attention_join(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values, DepthOutput out,
                          DepthLogSumExp log_sum_exp, Stream stream) {
  detail::check(shape, 0);
  if (shape.entries > 0) detail::depth_forward(shape, q, keys, values, out, log_sum_exp, true, stream);
}

}  // namespace meristem::kernels
