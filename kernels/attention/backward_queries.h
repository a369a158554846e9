// dQ: a block owns 64 queries of one head, 16 a warp, and walks over the keys that they see, as the forward kernel does. Scores and dP are
// computed a second time here; in exchange no two blocks write to the same place.
#pragma once

#include "attention/backward.h"

namespace meristem::kernels::detail {

inline constexpr int kBackwardQueries = 64;  // of a block
inline constexpr int kQueriesKeys = 64;      // keys of a step

template <int D>
inline constexpr int kBackwardQueriesShared = (2 * kBackwardQueries + 4 * kQueriesKeys) * kRowBytes<D>;  // Q, dO; two stages of K and V

// What a lane keeps of its two rows.
struct RowNumbers {
  Registers<float, 2> log_sum_exp, delta;  // the first in units of log 2
};

MERISTEM_DEVICE void load_numbers(RowNumbers& numbers, const BackwardParameters& p, const Place& place, int head, int row) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = row + device::lane_index() / 4 + 8 * half;
    numbers.log_sum_exp[half] = device::infinity();  // beyond the document: P = 0
    numbers.delta[half] = 0;
    if (query < place.length) {
      numbers.log_sum_exp[half] = device::ldg<float>(numbers_of(p.log_sum_exp, p.shape, place, head) + query) * kLog2E;
      numbers.delta[half] = device::ldg<float>(numbers_of(p.delta, p.shape, place, head) + query);
    }
  }
}

// gradients: dP -> dS, in place. scores: S.
MERISTEM_DEVICE void score_gradients(Registers<Accumulator, kQueriesKeys / 8>& gradients,
                                     const Registers<Accumulator, kQueriesKeys / 8>& scores, const RowNumbers& numbers, float scale_log2) {
  MERISTEM_UNROLL
  for (int n = 0; n < kQueriesKeys / 8; ++n) {
    MERISTEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float weight = device::exp2_fast(scores[n][i] * scale_log2 - numbers.log_sum_exp[i / 2]);
      gradients[n][i] = weight * (gradients[n][i] - numbers.delta[i / 2]);
    }
  }
}

template <int D>
MERISTEM_KERNEL(kBackwardThreads, 1)
attention_backward_queries_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  const int tile = device::block_count() / p.shape.heads - 1 - device::block_index() / p.shape.heads;
  const int head = device::block_index() % p.shape.heads, kv_head = head / (p.shape.heads / p.shape.kv_heads);
  const Place place = place_of_tile(p.shape, tile, kBackwardQueries);
  if (place.first >= place.length) return;
  const Window window = window_of(p.shape, place.length);
  const int last_row = smaller(place.first + kBackwardQueries, place.length) - 1;
  const int key_begin = window.first(place.first) / kQueriesKeys * kQueriesKeys, key_end = window.last(last_row) + 1;

  constexpr SharedAddress kTile = kQueriesKeys * kRowBytes<D>;
  const SharedAddress queries = device::shared_base(), d_out = queries + kBackwardQueries * kRowBytes<D>;
  const SharedAddress stages = d_out + kBackwardQueries * kRowBytes<D>;
  const device::gptr<const std::uint16_t> k = rows_of(p.k, place, kv_head), v = rows_of(p.v, place, kv_head);
  const auto copy_keys_values = [&](int key, int stage) {
    const SharedAddress to = stages + static_cast<SharedAddress>(stage) * 2 * kTile;
    copy_tile<D, kQueriesKeys, kBackwardThreads>(to, k + key * p.k.row_stride, p.k.row_stride, place.length - key);
    copy_tile<D, kQueriesKeys, kBackwardThreads>(to + kTile, v + key * p.v.row_stride, p.v.row_stride, place.length - key);
  };
  const int valid = place.length - place.first, row = device::warp_index() * 16;
  copy_tile<D, kBackwardQueries, kBackwardThreads>(queries, rows_of(p.q, place, head) + place.first * p.q.row_stride, p.q.row_stride,
                                                   valid);
  copy_tile<D, kBackwardQueries, kBackwardThreads>(d_out, rows_of(p.d_out, place, head) + place.first * p.d_out.row_stride,
                                                   p.d_out.row_stride, valid);
  copy_keys_values(key_begin, 0);
  device::cp_async_commit();

  RowNumbers numbers;
  load_numbers(numbers, p, place, head, place.first + row);
  WarpMatrix<1, D> dq;
  clear<1, D>(dq);
  const float scale_log2 = p.shape.scale * kLog2E;
  int stage = 0;
  for (int key = key_begin; key < key_end; key += kQueriesKeys, stage ^= 1) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one
    if (key + kQueriesKeys < key_end) copy_keys_values(key + kQueriesKeys, stage ^ 1);
    device::cp_async_commit();
    const SharedAddress keys = stages + static_cast<SharedAddress>(stage) * 2 * kTile;
    WarpMatrix<1, kQueriesKeys> scores, gradients;
    multiply_rows<D, 1, kQueriesKeys>(scores, queries, row, keys);
    // Keys beyond the document are hidden here: their zeros would make exp(-log_sum_exp), which may be infinite.
    if (hides_any(window, place.first + row, 16, key, kQueriesKeys)) mask_keys(scores[0], window, place.first + row, key);
    multiply_rows<D, 1, kQueriesKeys>(gradients, d_out, row, keys + kTile);
    score_gradients(gradients[0], scores[0], numbers, scale_log2);
    accumulate_columns<D, 1, kQueriesKeys>(dq, gradients, keys);
  }
  write_gradient<D>(p.dq, place, head, queries, row, dq[0], p.shape.scale);
}

template <int D>
void launch_attention_backward_queries(const BackwardParameters& p, Stream stream) {
  device::launch("attention_backward_queries", attention_backward_queries_kernel<D>, tiles_of(p.shape, kBackwardQueries) * p.shape.heads,
                 kBackwardThreads, kBackwardQueriesShared<D>, stream, p);
}

}  // namespace meristem::kernels::detail
