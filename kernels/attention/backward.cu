// The backward pass without atomics, three kernels: delta; dK and dV, where a block owns keys; dQ, where a block owns queries. The last two
// compute scores and dP a second time; in exchange no two blocks write to the same place. docs/kernels.md has the drawing.
// backward_tiled.cu is the other variant.
#include <utility>

#include "attention/backward.h"
#include "rows/chunk.h"

namespace meristem::kernels {
namespace detail {

// delta = rowsum(d_out * out), one number for each query row: the softmax's backward needs sum_j P_ij dP_ij, which is this (FlashAttention,
// section B.2). D/8 neighbouring lanes share a row, 16 bytes each.
inline constexpr int kDeltaThreads = 128;
template <int D>
inline constexpr int kDeltaRows = kDeltaThreads / (D / 8);  // of a block

template <int D>
MERISTEM_KERNEL(kDeltaThreads, 8)
attention_delta_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  constexpr int kLanes = D / 8;
  const std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kDeltaRows<D> + device::thread_index() / kLanes;
  const std::int64_t token = row / p.shape.heads;
  const int head = static_cast<int>(row % p.shape.heads), chunk = device::thread_index() % kLanes;
  const bool valid = token < p.shape.tokens;
  float sum = 0;
  if (valid && p.dq_sums != nullptr) {  // [T, H * D], as rows and chunks are numbered
    const device::gptr<float> to = device::gptr<float>(p.dq_sums) + (row * D + chunk * 8);
    device::stg(to, device::Vec4{});
    device::stg(to + 4, device::Vec4{});
  }
  if (valid) {
    const device::gptr<const std::uint16_t> out(p.out.data), d_out(p.d_out.data);
    sum = dot_chunk(device::ldg<device::Vec4>(out + (token * p.out.row_stride + head * p.out.head_stride + chunk * 8)),
                    device::ldg<device::Vec4>(d_out + (token * p.d_out.row_stride + head * p.d_out.head_stride + chunk * 8)));
  }
  MERISTEM_UNROLL
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += device::shuffle_xor(sum, lanes);
  if (valid && chunk == 0) device::stg(device::gptr<float>(p.delta) + (head * static_cast<std::int64_t>(p.shape.tokens) + token), sum);
}

template <int D>
void launch_attention_delta(const BackwardParameters& p, Stream stream) {
  const std::int64_t rows = static_cast<std::int64_t>(p.shape.tokens) * p.shape.heads;
  device::launch("attention_delta", attention_delta_kernel<D>, (rows + kDeltaRows<D> - 1) / kDeltaRows<D>, kDeltaThreads, 0, stream, p);
}

inline constexpr int kBackwardThreads = 128;

// dK and dV: a block owns 64 keys of one key head, 16 a warp, and walks over the queries that see them, 64 or 32 at a time, of all query
// heads of the group. It works on transposed scores, S^T = K Q^T, so that P^T and dS^T come out as the left operands of dV += P^T dO and dK
// += dS^T Q.
inline constexpr int kBackwardKeys = 64;  // of a block
// Queries of a step. At D = 128 dK and dV take 128 registers of a thread, which leaves fewer for the scores.
template <int D>
inline constexpr int kKeysQueries = D == 64 ? 64 : 32;

template <int D>
using KeysStage = QueryStage<D, kKeysQueries<D>>;
// K, V, and two stages of what comes with the queries.
template <int D>
inline constexpr int kBackwardKeysShared = 2 * kBackwardKeys * kRowBytes<D> + 2 * KeysStage<D>::kBytes;

template <int D>
MERISTEM_KERNEL(kBackwardThreads, 1)
attention_backward_keys_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  // Under a causal mask early keys are seen by most queries, so tiles in their own order start with the most work.
  const int tile = device::block_index() / p.shape.kv_heads, kv_head = device::block_index() % p.shape.kv_heads;
  const Place place = place_of_tile(p.shape, tile, kBackwardKeys);
  if (place.first >= place.length) return;
  constexpr int kQueries = kKeysQueries<D>;
  const Window window = window_of(p.shape, place.length);
  const QuerySteps steps = query_steps<kQueries>(window, place, kBackwardKeys);
  const int group = p.shape.heads / p.shape.kv_heads, last_head = kv_head * group + group - 1;

  const SharedAddress keys = device::shared_base(), values = keys + kBackwardKeys * kRowBytes<D>;
  SharedAddress now = values + kBackwardKeys * kRowBytes<D>, next = now + KeysStage<D>::kBytes;
  const int valid = place.length - place.first, row = device::warp_index() * 16;
  copy_tile<D, kBackwardKeys, kBackwardThreads>(keys, rows_of(p.k, place, kv_head) + place.first * p.k.row_stride, p.k.row_stride, valid);
  copy_tile<D, kBackwardKeys, kBackwardThreads>(values, rows_of(p.v, place, kv_head) + place.first * p.v.row_stride, p.v.row_stride, valid);
  QueryCopies<D, kQueries, kBackwardThreads> copies(p, place, steps, kv_head * group);
  copies.start(p, place, steps, now);
  device::cp_async_commit();

  WarpMatrix<1, D> dk, dv;
  clear<1, D>(dk);
  clear<1, D>(dv);
  const float scale_log2 = p.shape.scale * kLog2E;
  for (int head = kv_head * group, query = steps.begin; head <= last_head;) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one
    const int next_head = copies.head, next_query = copies.query;
    if (next_head <= last_head) copies.start(p, place, steps, next);
    device::cp_async_commit();
    const KeysStage<D> stage(now);
    const int key = place.first + row;
    WarpMatrix<1, kQueries> weights, gradients;
    multiply_rows<D, 1, kQueries>(weights, keys, row, stage.rows);
    if (hides_any(window, query, kQueries, key, 16)) mask_queries(weights[0], window, key, query);
    probabilities(weights[0], stage.log_sum_exp, scale_log2);
    accumulate_columns<D, 1, kQueries>(dv, weights, stage.d_out);
    multiply_rows<D, 1, kQueries>(gradients, values, row, stage.d_out);
    score_gradients(gradients[0], weights[0], stage.delta);
    accumulate_columns<D, 1, kQueries>(dk, gradients, stage.rows);
    head = next_head;
    query = next_query;
    std::swap(now, next);
  }
  write_gradient<D, 1, D>(p.dk, place, kv_head, keys, row, 0, dk, p.shape.scale);
  write_gradient<D, 1, D>(p.dv, place, kv_head, values, row, 0, dv, 1);
}

template <int D>
void launch_attention_backward_keys(const BackwardParameters& p, Stream stream) {
  device::launch("attention_backward_keys", attention_backward_keys_kernel<D>, tiles_of(p.shape, kBackwardKeys) * p.shape.kv_heads,
                 kBackwardThreads, kBackwardKeysShared<D>, stream, p);
}

// dQ: a block owns 64 queries of one head, 16 a warp, and walks over the keys that they see, as the forward kernel does. Scores and dP are
// computed a second time here; in exchange no two blocks write to the same place.
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
  using Copy = TileCopy<D, kBackwardThreads>;
  device::gptr<const std::uint16_t> k = Copy::mine(rows_of(p.k, place, kv_head) + key_begin * p.k.row_stride, p.k.row_stride);
  device::gptr<const std::uint16_t> v = Copy::mine(rows_of(p.v, place, kv_head) + key_begin * p.v.row_stride, p.v.row_stride);
  // The next keys and values, of which `valid` are the document's.
  const auto copy_keys_values = [&](int valid, SharedAddress to) {
    copy_rows<D, kQueriesKeys, kBackwardThreads>(to, k, p.k.row_stride, valid);
    copy_rows<D, kQueriesKeys, kBackwardThreads>(to + kTile, v, p.v.row_stride, valid);
    k = k + kQueriesKeys * p.k.row_stride;
    v = v + kQueriesKeys * p.v.row_stride;
  };
  const int valid = place.length - place.first, row = device::warp_index() * 16;
  copy_tile<D, kBackwardQueries, kBackwardThreads>(queries, rows_of(p.q, place, head) + place.first * p.q.row_stride, p.q.row_stride,
                                                   valid);
  copy_tile<D, kBackwardQueries, kBackwardThreads>(d_out, rows_of(p.d_out, place, head) + place.first * p.d_out.row_stride,
                                                   p.d_out.row_stride, valid);
  copy_keys_values(place.length - key_begin, stages);
  device::cp_async_commit();

  RowNumbers numbers;
  load_numbers(numbers, p, place, head, place.first + row);
  WarpMatrix<1, D> dq;
  clear<1, D>(dq);
  const float scale_log2 = p.shape.scale * kLog2E;
  SharedAddress keys = stages, next = stages + 2 * kTile;
  for (int key = key_begin; key < key_end; key += kQueriesKeys) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one
    if (key + kQueriesKeys < key_end) copy_keys_values(place.length - key - kQueriesKeys, next);
    device::cp_async_commit();
    WarpMatrix<1, kQueriesKeys> scores, gradients;
    multiply_rows<D, 1, kQueriesKeys>(scores, queries, row, keys);
    // Keys beyond the document are hidden here: their zeros would make exp(-log_sum_exp), which may be infinite.
    if (hides_any(window, place.first + row, 16, key, kQueriesKeys)) mask_keys(scores[0], window, place.first + row, key);
    multiply_rows<D, 1, kQueriesKeys>(gradients, d_out, row, keys + kTile);
    score_gradients(gradients[0], scores[0], numbers, scale_log2);
    accumulate_columns<D, 1, kQueriesKeys>(dq, gradients, keys);
    std::swap(keys, next);
  }
  write_gradient<D, 1, D>(p.dq, place, head, queries, row, 0, dq, p.shape.scale);
}

template <int D>
void launch_attention_backward_queries(const BackwardParameters& p, Stream stream) {
  device::launch("attention_backward_queries", attention_backward_queries_kernel<D>, tiles_of(p.shape, kBackwardQueries) * p.shape.heads,
                 kBackwardThreads, kBackwardQueriesShared<D>, stream, p);
}

template <int D>
void launch_backward(const BackwardParameters& p, Stream stream) {
  launch_attention_delta<D>(p, stream);
  if (p.dq_sums != nullptr) return launch_attention_backward_tiled(p, stream);
  launch_attention_backward_keys<D>(p, stream);
  launch_attention_backward_queries<D>(p, stream);
}

}  // namespace detail

std::int64_t attention_sums(const AttentionShape& shape) {
  detail::check(shape);
  return detail::tiled_backward_fits(shape.head_dim) ? static_cast<std::int64_t>(shape.tokens) * shape.heads * shape.head_dim : 0;
}

void attention_backward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionInput out,
                        AttentionInput d_out, const float* log_sum_exp, float* delta, float* dq_sums, AttentionOutput dq,
                        AttentionOutput dk, AttentionOutput dv, Stream stream) {
  detail::check(shape);
  for (const auto& [matrix, name] : {std::pair{q, "q"}, {k, "k"}, {v, "v"}, {out, "out"}, {d_out, "d_out"}}) detail::check(matrix, name);
  for (const auto& [matrix, name] : {std::pair{dq, "dq"}, {dk, "dk"}, {dv, "dv"}}) detail::check(matrix, name);
  detail::require_aligned(dq_sums, "attention", "the sums of dq");
  if (shape.tokens == 0) return;
  const detail::BackwardParameters p{shape, q, k, v, out, d_out, log_sum_exp, delta, dq, dk, dv, dq_sums};
  shape.head_dim == 64 ? detail::launch_backward<64>(p, stream) : detail::launch_backward<128>(p, stream);
}

}  // namespace meristem::kernels
