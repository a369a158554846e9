// What the two variants of the backward pass share: where their matrices lie, the queries that a block of keys walks over, and what becomes
// of a tile of transposed scores.
#pragma once

#include <cstdint>

#include "attention/place.h"

namespace meristem::kernels::detail {

struct BackwardParameters {
  AttentionShape shape;
  AttentionInput q, k, v, out, d_out;
  const float* log_sum_exp;
  float* delta;  // [H, T]: rowsum(d_out * out)
  AttentionOutput dq, dk, dv;
  float* dq_sums;  // [T, H * D], where blocks add dQ up; null: each of its elements has one writer
};

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

// A warp's finished rows, 16 * row_tiles from `row` on and `columns` columns from chunk `chunk` on, into a place of the tile that only it
// uses, and from there to memory.
template <int D, int row_tiles, int columns>
MERISTEM_DEVICE void write_gradient(const AttentionOutput& gradient, const Place& place, int head, SharedAddress staging, int row,
                                    int chunk, const WarpMatrix<row_tiles, columns>& sums, float factor) {
  MERISTEM_UNROLL
  for (int m = 0; m < row_tiles; ++m) stage_rows<D, columns>(staging, row + 16 * m, chunk, sums[m], factor, factor);
  device::warp_sync();
  write_rows<D, 16 * row_tiles, columns>(staging, row, chunk, rows_of(gradient, place, head) + place.first * gradient.row_stride,
                                         gradient.row_stride, place.length - place.first);
}

// Which queries see the keys of a block: from a step's first one on.
struct QuerySteps {
  int begin, end;
};
template <int queries>
MERISTEM_DEVICE QuerySteps query_steps(const Window& window, const Place& place, int keys) {
  const int last_key = smaller(place.first + keys, place.length) - 1;
  return {larger(place.first - window.right, 0) / queries * queries, smaller(last_key + window.left, place.length - 1) + 1};
}

// Where one stage's parts lie in shared memory.
template <int D, int queries>
struct QueryStage {
  static constexpr SharedAddress kTile = queries * kRowBytes<D>, kNumbers = queries * 4;
  static constexpr int kBytes = 2 * static_cast<int>(kTile + kNumbers);
  SharedAddress rows, d_out, log_sum_exp, delta;
  MERISTEM_DEVICE explicit QueryStage(SharedAddress stage)
      : rows(stage), d_out(stage + kTile), log_sum_exp(d_out + kTile), delta(log_sum_exp + kNumbers) {}
};

// The copies of queries, dO, log-sum-exp and delta, step after step and head after head of a group. The numbers are copied one by one:
// their rows start anywhere. Beyond the document everything becomes zero, and then P = 1 meets rows of zeros.
template <int D, int queries, int threads>
struct QueryCopies {
  using Copy = TileCopy<D, threads>;
  static_assert(threads >= 2 * queries);
  device::gptr<const std::uint16_t> q, d_out;
  device::gptr<const float> numbers;  // this thread's: of a query its log-sum-exp, or its delta
  int head, query;                    // of the next step

  MERISTEM_DEVICE QueryCopies(const BackwardParameters& p, const Place& place, const QuerySteps& of, int of_head)
      : q(Copy::mine(rows_of(p.q, place, of_head) + of.begin * p.q.row_stride, p.q.row_stride)),
        d_out(Copy::mine(rows_of(p.d_out, place, of_head) + of.begin * p.d_out.row_stride, p.d_out.row_stride)),
        numbers(numbers_of(device::thread_index() < queries ? p.log_sum_exp : p.delta, p.shape, place, of_head) +
                (of.begin + device::thread_index() % queries)),
        head(of_head),
        query(of.begin) {}

  // Starts those of the next step and moves on.
  MERISTEM_DEVICE void start(const BackwardParameters& p, const Place& place, const QuerySteps& of, SharedAddress stage) {
    const QueryStage<D, queries> to(stage);
    const int valid = place.length - query, thread = device::thread_index();
    copy_rows<D, queries, threads>(to.rows, q, p.q.row_stride, valid);
    copy_rows<D, queries, threads>(to.d_out, d_out, p.d_out.row_stride, valid);
    if (thread < 2 * queries)
      device::cp_async_4(to.log_sum_exp + static_cast<SharedAddress>(thread) * 4, numbers, thread % queries < valid);
    q = q + queries * p.q.row_stride;
    d_out = d_out + queries * p.d_out.row_stride;
    numbers = numbers + queries;
    query += queries;
    if (query < of.end) return;
    const int walked = query - of.begin;
    q = q + (p.q.head_stride - walked * p.q.row_stride);
    d_out = d_out + (p.d_out.head_stride - walked * p.d_out.row_stride);
    numbers = numbers + (p.shape.tokens - walked);
    query = of.begin;
    ++head;
  }
};

// scores -> P^T, in place: a column is a query.
template <int tiles>
MERISTEM_DEVICE void probabilities(Registers<Accumulator, tiles>& scores, SharedAddress log_sum_exp, float scale_log2) {
  MERISTEM_UNROLL
  for (int n = 0; n < tiles; ++n) {
    const auto two = device::lds<device::float2>(log_sum_exp + static_cast<SharedAddress>(8 * n + device::lane_index() % 4 * 2) * 4);
    const float first = two.x * kLog2E, second = two.y * kLog2E;
    MERISTEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      scores[n][2 * half] = device::exp2_fast(scores[n][2 * half] * scale_log2 - first);
      scores[n][2 * half + 1] = device::exp2_fast(scores[n][2 * half + 1] * scale_log2 - second);
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

// The variant that adds dQ up (backward_tiled.cu), after delta; and whether the current device has the shared memory for it.
bool tiled_backward_fits(int head_dim);
void launch_attention_backward_tiled(const BackwardParameters& p, Stream stream);

}  // namespace meristem::kernels::detail
