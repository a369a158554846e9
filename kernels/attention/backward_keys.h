// dK and dV: a block owns 64 keys of one key head, 16 a warp, and walks over the queries that see them, 64 or 32 at a time, of all query
// heads of the group. It works on transposed scores, S^T = K Q^T, so that P^T and dS^T come out as the left operands of dV += P^T dO and dK
// += dS^T Q.
#pragma once

#include "attention/backward.h"

namespace meristem::kernels::detail {

inline constexpr int kBackwardKeys = 64;  // of a block
// Queries of a step. At D = 128 dK and dV take 128 registers of a thread, which leaves fewer for the scores.
template <int D>
inline constexpr int kKeysQueries = D == 64 ? 64 : 32;

// K, V, and two stages of Q, dO, log-sum-exp and delta.
template <int D>
inline constexpr int kBackwardKeysShared = (2 * kBackwardKeys + 4 * kKeysQueries<D>)*kRowBytes<D> + 4 * kKeysQueries<D> * 4;

// Where one stage's parts lie in shared memory.
template <int D>
struct QueryStage {
  SharedAddress queries, d_out, log_sum_exp, delta;
  MERISTEM_DEVICE QueryStage(SharedAddress stages, int stage) {
    constexpr SharedAddress kTile = kKeysQueries<D> * kRowBytes<D>, kNumbers = kKeysQueries<D> * 4;
    queries = stages + static_cast<SharedAddress>(stage) * 2 * kTile;
    d_out = queries + kTile;
    log_sum_exp = stages + 4 * kTile + static_cast<SharedAddress>(stage) * 2 * kNumbers;
    delta = log_sum_exp + kNumbers;
  }
};

// Starts the copies of `query` to query + kKeysQueries - 1 of one head. The numbers go through registers: their rows start anywhere.
// Queries beyond the document get an infinite log-sum-exp, hence P = 0.
template <int D>
MERISTEM_DEVICE void copy_queries(const BackwardParameters& p, const Place& place, int head, int query, const QueryStage<D>& to) {
  const int valid = place.length - query, i = device::thread_index();
  copy_tile<D, kKeysQueries<D>, kBackwardThreads>(to.queries, rows_of(p.q, place, head) + query * p.q.row_stride, p.q.row_stride, valid);
  copy_tile<D, kKeysQueries<D>, kBackwardThreads>(to.d_out, rows_of(p.d_out, place, head) + query * p.d_out.row_stride, p.d_out.row_stride,
                                                  valid);
  if (i >= kKeysQueries<D>) return;
  float log_sum_exp = device::infinity(), delta = 0;
  if (i < valid) {
    log_sum_exp = device::ldg<float>(numbers_of(p.log_sum_exp, p.shape, place, head) + (query + i)) * kLog2E;
    delta = device::ldg<float>(numbers_of(p.delta, p.shape, place, head) + (query + i));
  }
  device::sts(to.log_sum_exp + static_cast<SharedAddress>(i) * 4, log_sum_exp);
  device::sts(to.delta + static_cast<SharedAddress>(i) * 4, delta);
}

// scores -> P^T, in place: a column is a query.
template <int tiles>
MERISTEM_DEVICE void probabilities(Registers<Accumulator, tiles>& scores, SharedAddress log_sum_exp, float scale_log2) {
  MERISTEM_UNROLL
  for (int n = 0; n < tiles; ++n) {
    const auto two = device::lds<device::float2>(log_sum_exp + static_cast<SharedAddress>(8 * n + device::lane_index() % 4 * 2) * 4);
    MERISTEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      scores[n][2 * half] = device::exp2_fast(scores[n][2 * half] * scale_log2 - two.x);
      scores[n][2 * half + 1] = device::exp2_fast(scores[n][2 * half + 1] * scale_log2 - two.y);
    }
  }
}

// dP^T -> dS^T, in place.
template <int tiles>
MERISTEM_DEVICE void score_gradients(Registers<Accumulator, tiles>& gradients, const Registers<Accumulator, tiles>& weights,
                                     SharedAddress delta) {
  MERISTEM_UNROLL
  for (int n = 0; n < tiles; ++n) {
    const auto two = device::lds<device::float2>(delta + static_cast<SharedAddress>(8 * n + device::lane_index() % 4 * 2) * 4);
    MERISTEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      gradients[n][2 * half] = weights[n][2 * half] * (gradients[n][2 * half] - two.x);
      gradients[n][2 * half + 1] = weights[n][2 * half + 1] * (gradients[n][2 * half + 1] - two.y);
    }
  }
}

template <int D>
MERISTEM_KERNEL(kBackwardThreads, 1)
attention_backward_keys_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  // Under a causal mask early keys are seen by most queries, so tiles in their own order start with the most work.
  const int tile = device::block_index() / p.shape.kv_heads, kv_head = device::block_index() % p.shape.kv_heads;
  const Place place = place_of_tile(p.shape, tile, kBackwardKeys);
  if (place.first >= place.length) return;
  constexpr int kQueries = kKeysQueries<D>;
  const Window window = window_of(p.shape, place.length);
  const int last_key = smaller(place.first + kBackwardKeys, place.length) - 1;
  const int query_begin = larger(place.first - window.right, 0) / kQueries * kQueries;
  const int query_end = smaller(last_key + window.left, place.length - 1) + 1;
  const int steps = (query_end - query_begin + kQueries - 1) / kQueries, group = p.shape.heads / p.shape.kv_heads;

  const SharedAddress keys = device::shared_base(), values = keys + kBackwardKeys * kRowBytes<D>;
  const SharedAddress stages = values + kBackwardKeys * kRowBytes<D>;
  const int valid = place.length - place.first, row = device::warp_index() * 16;
  copy_tile<D, kBackwardKeys, kBackwardThreads>(keys, rows_of(p.k, place, kv_head) + place.first * p.k.row_stride, p.k.row_stride, valid);
  copy_tile<D, kBackwardKeys, kBackwardThreads>(values, rows_of(p.v, place, kv_head) + place.first * p.v.row_stride, p.v.row_stride, valid);
  copy_queries<D>(p, place, kv_head * group, query_begin, QueryStage<D>(stages, 0));
  device::cp_async_commit();

  WarpMatrix<1, D> dk, dv;
  clear<1, D>(dk);
  clear<1, D>(dv);
  const float scale_log2 = p.shape.scale * kLog2E;
  for (int i = 0; i < group * steps; ++i) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one
    const int next = i + 1;
    if (next < group * steps) {
      copy_queries<D>(p, place, kv_head * group + next / steps, query_begin + next % steps * kQueries, QueryStage<D>(stages, next % 2));
    }
    device::cp_async_commit();
    const QueryStage<D> stage(stages, i % 2);
    const int query = query_begin + i % steps * kQueries, key = place.first + row;
    WarpMatrix<1, kQueries> weights, gradients;
    multiply_rows<D, 1, kQueries>(weights, keys, row, stage.queries);
    if (hides_any(window, query, kQueries, key, 16)) mask_queries(weights[0], window, key, query);
    probabilities(weights[0], stage.log_sum_exp, scale_log2);
    accumulate_columns<D, 1, kQueries>(dv, weights, stage.d_out);
    multiply_rows<D, 1, kQueries>(gradients, values, row, stage.d_out);
    score_gradients(gradients[0], weights[0], stage.delta);
    accumulate_columns<D, 1, kQueries>(dk, gradients, stage.queries);
  }
  write_gradient<D>(p.dk, place, kv_head, keys, row, dk[0], p.shape.scale);
  write_gradient<D>(p.dv, place, kv_head, values, row, dv[0], 1);
}

template <int D>
void launch_attention_backward_keys(const BackwardParameters& p, Stream stream) {
  device::launch("attention_backward_keys", attention_backward_keys_kernel<D>, tiles_of(p.shape, kBackwardKeys) * p.shape.kv_heads,
                 kBackwardThreads, kBackwardKeysShared<D>, stream, p);
}

}  // namespace meristem::kernels::detail
