// The backward pass, three kernels: delta; dK and dV, where a block owns keys; dQ, where a block owns queries. The last two compute scores
// and dP a second time; in exchange no two blocks write to the same place. docs/kernels.md has the drawing.
#include <cstdint>
#include <utility>

#include "attention/place.h"
#include "rows/chunk.h"

namespace meristem::kernels {
namespace detail {

struct BackwardParameters {
  AttentionShape shape;
  AttentionInput q, k, v, out, d_out;
  const float* log_sum_exp;
  float* delta;  // [H, T]: rowsum(d_out * out)
  AttentionOutput dq, dk, dv;
};

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

// What both backward kernels do with a score: P = exp(scale * score - log_sum_exp), dS = P * (dP - delta).
inline constexpr int kBackwardThreads = 128;

// One matrix's part for one document and head: its row 0 is the document's first token.
MERISTEM_DEVICE device::gptr<const std::uint16_t> rows_of(const AttentionInput& matrix, const Place& place, int head) {
  return device::gptr<const std::uint16_t>(matrix.data) + (place.document_begin * matrix.row_stride + head * matrix.head_stride);
}
MERISTEM_DEVICE device::gptr<std::uint16_t> rows_of(const AttentionOutput& matrix, const Place& place, int head) {
  return device::gptr<std::uint16_t>(matrix.data) + (place.document_begin * matrix.row_stride + head * matrix.head_stride);
}
// As rows_of, of a vector with a number for each head and token.
template <class T>
MERISTEM_DEVICE device::gptr<T> numbers_of(T* vector, const AttentionShape& shape, const Place& place, int head) {
  return device::gptr<T>(vector) + (static_cast<std::int64_t>(head) * shape.tokens + place.document_begin);
}

// This warp's 16 finished rows into its own rows of a tile that only it reads, and from there to memory.
template <int D>
MERISTEM_DEVICE void write_gradient(const AttentionOutput& gradient, const Place& place, int head, SharedAddress staging, int row,
                                    const Registers<Accumulator, D / 8>& sums, float factor) {
  stage_rows<D>(staging, row, sums, factor, factor);
  device::warp_sync();
  write_rows<D, 16>(staging, row, rows_of(gradient, place, head) + place.first * gradient.row_stride, gradient.row_stride,
                    place.length - place.first);
}

// dK and dV: a block owns 64 keys of one key head, 16 a warp, and walks over the queries that see them, 64 or 32 at a time, of all query
// heads of the group. It works on transposed scores, S^T = K Q^T, so that P^T and dS^T come out as the left operands of dV += P^T dO and dK
// += dS^T Q.
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

template <int D>
void launch_backward(const BackwardParameters& p, Stream stream) {
  launch_attention_delta<D>(p, stream);
  launch_attention_backward_keys<D>(p, stream);
  launch_attention_backward_queries<D>(p, stream);
}

}  // namespace detail

void attention_backward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionInput out,
                        AttentionInput d_out, const float* log_sum_exp, float* delta, AttentionOutput dq, AttentionOutput dk,
                        AttentionOutput dv, Stream stream) {
  detail::check(shape);
  for (const auto& [matrix, name] : {std::pair{q, "q"}, {k, "k"}, {v, "v"}, {out, "out"}, {d_out, "d_out"}}) detail::check(matrix, name);
  for (const auto& [matrix, name] : {std::pair{dq, "dq"}, {dk, "dk"}, {dv, "dv"}}) detail::check(matrix, name);
  if (shape.tokens == 0) return;
  const detail::BackwardParameters p{shape, q, k, v, out, d_out, log_sum_exp, delta, dq, dk, dv};
  shape.head_dim == 64 ? detail::launch_backward<64>(p, stream) : detail::launch_backward<128>(p, stream);
}

}  // namespace meristem::kernels
