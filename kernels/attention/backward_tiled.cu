// The backward pass with five products: a block of 8 warps owns 128 keys of a key head and walks over the queries that see them. Scores are
// computed once; P and dS go through shared memory, so that every warp reads them in the shape that its product wants; dQ is added up in
// fp32 over the blocks, in whatever order they come. docs/kernels.md has the drawing.
#include <utility>

#include "attention/backward.h"

namespace meristem::kernels {
namespace detail {

inline constexpr int kTiledThreads = 256, kTiledKeys = 128;

// The parts of a step's products. Warp w has keys 32 (w / 2) on, and of their scores the queries of half w % 2, of their dK and dV the
// columns of that half. Of dQ it has 32 queries and 32 columns.
template <int D>
struct Tiled {
  static constexpr int kQueries = D == 64 ? 128 : 64;  // of a step
  static constexpr int kHalfQueries = kQueries / 2, kHalfColumns = D / 2;
  using Stage = QueryStage<D, kQueries>;
  static constexpr SharedAddress kKeyTile = kTiledKeys * kRowBytes<D>, kScoreTile = kTiledKeys * kRowBytes<kQueries>;
  // K, V, P^T, dS^T; two stages of what comes with the queries.
  static constexpr int kShared = 2 * static_cast<int>(kKeyTile + kScoreTile) + 2 * Stage::kBytes;
};

// sum += left right: rows of the tile `left`, W columns wide, by columns of the tile `right` from chunk `chunk` on, summed over the first
// `inner` columns of left.
template <int W, int D, int columns, int inner>
MERISTEM_DEVICE void accumulate_product(WarpMatrix<2, columns>& sum, SharedAddress left, SharedAddress right, int chunk) {
  MERISTEM_UNROLL
  for (int step = 0; step < inner / 16; ++step) {
    Registers<Fragment, 2> a;
    MERISTEM_UNROLL
    for (int m = 0; m < 2; ++m) load_left<W>(a[m], left, 16 * m, step);
    MERISTEM_UNROLL
    for (int pair = 0; pair < columns / 16; ++pair) {
      Fragment b;
      load_right_of_columns<D>(b, right, 16 * step, pair, chunk);
      MERISTEM_UNROLL
      for (int m = 0; m < 2; ++m) {
        device::mma_m16n8k16(sum[m][2 * pair], a[m], b[0], b[1]);
        device::mma_m16n8k16(sum[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// product = transposed^T right: 32 columns of the tile `transposed` from chunk `row_chunk` on, as rows, by 32 columns of `right`.
template <int W, int D>
MERISTEM_DEVICE void multiply_columns(WarpMatrix<2, 32>& product, SharedAddress transposed, int row_chunk, SharedAddress right, int chunk) {
  clear<2, 32>(product);
  MERISTEM_UNROLL
  for (int step = 0; step < kTiledKeys / 16; ++step) {
    Registers<Fragment, 2> a;
    MERISTEM_UNROLL
    for (int m = 0; m < 2; ++m) load_left_of_columns<W>(a[m], transposed, 16 * step, m, row_chunk);
    MERISTEM_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      Fragment b;
      load_right_of_columns<D>(b, right, 16 * step, pair, chunk);
      MERISTEM_UNROLL
      for (int m = 0; m < 2; ++m) {
        device::mma_m16n8k16(product[m][2 * pair], a[m], b[0], b[1]);
        device::mma_m16n8k16(product[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// A warp's 32 queries by 32 columns of dQ, in units of 1 / scale. to: its first row and column; `valid` rows are the document's.
MERISTEM_DEVICE void add_query_gradients(device::gptr<float> to, std::int64_t row_stride, int valid, const WarpMatrix<2, 32>& sums) {
  const int lane = device::lane_index();
  MERISTEM_UNROLL
  for (int m = 0; m < 2; ++m) {
    MERISTEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * m + 8 * half + lane / 4;
      if (row >= valid) continue;
      const device::gptr<float> at = to + (row * row_stride + lane % 4 * 2);
      MERISTEM_UNROLL
      for (int n = 0; n < 4; ++n) device::atomic_add_2(at + 8 * n, sums[m][n][2 * half], sums[m][n][2 * half + 1]);
    }
  }
}

template <int D>
MERISTEM_KERNEL(kTiledThreads, 1)
attention_backward_tiled_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  using Of = Tiled<D>;
  constexpr int kQueries = Of::kQueries, kHalf = Of::kHalfQueries;
  // Under a causal mask early keys are seen by most queries, so tiles in their own order start with the most work.
  const int tile = device::block_index() / p.shape.kv_heads, kv_head = device::block_index() % p.shape.kv_heads;
  const Place place = place_of_tile(p.shape, tile, kTiledKeys);
  if (place.first >= place.length) return;
  const Window window = window_of(p.shape, place.length);
  const QuerySteps steps = query_steps<kQueries>(window, place, kTiledKeys);
  const int group = p.shape.heads / p.shape.kv_heads;

  const SharedAddress keys = device::shared_base(), values = keys + Of::kKeyTile, weights = values + Of::kKeyTile;
  const SharedAddress gradients = weights + Of::kScoreTile;
  SharedAddress now = gradients + Of::kScoreTile, next = now + Of::Stage::kBytes;
  copy_tile<D, kTiledKeys, kTiledThreads>(keys, rows_of(p.k, place, kv_head) + place.first * p.k.row_stride, p.k.row_stride,
                                          place.length - place.first);
  copy_tile<D, kTiledKeys, kTiledThreads>(values, rows_of(p.v, place, kv_head) + place.first * p.v.row_stride, p.v.row_stride,
                                          place.length - place.first);
  QueryCopies<D, kQueries, kTiledThreads> copies(p, place, steps, kv_head * group);
  copies.start(p, place, steps, now);
  device::cp_async_commit();

  const int warp = device::warp_index(), row = warp / 2 * 32, side = warp % 2;
  const int query_part = warp / (D / 32), column_part = warp % (D / 32);  // of dQ, 32 each
  WarpMatrix<2, Of::kHalfColumns> dk, dv;
  clear<2, Of::kHalfColumns>(dk);
  clear<2, Of::kHalfColumns>(dv);
  const std::int64_t width = static_cast<std::int64_t>(p.shape.heads) * D;
  const int last_head = kv_head * group + group - 1;
  for (int head = kv_head * group, query = steps.begin; head <= last_head;) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one and the scores
    const int next_head = copies.head, next_query = copies.query;
    if (next_head <= last_head) copies.start(p, place, steps, next);
    device::cp_async_commit();
    const typename Of::Stage stage(now);
    {
      WarpMatrix<2, kHalf> p_t, ds_t;
      multiply_rows<D, 2, kHalf>(p_t, keys, row, stage.rows + static_cast<SharedAddress>(side * kHalf * kRowBytes<D>));
      const bool masked = hides_any(window, query + side * kHalf, kHalf, place.first + row, 32);
      MERISTEM_UNROLL
      for (int m = 0; m < 2; ++m) {
        if (masked) mask_queries(p_t[m], window, place.first + row + 16 * m, query + side * kHalf);
        probabilities(p_t[m], stage.log_sum_exp + static_cast<SharedAddress>(side * kHalf * 4), p.shape.scale * kLog2E);
        stage_rows<kQueries, kHalf>(weights, row + 16 * m, side * kHalf / 8, p_t[m], 1, 1);
      }
      multiply_rows<D, 2, kHalf>(ds_t, values, row, stage.d_out + static_cast<SharedAddress>(side * kHalf * kRowBytes<D>));
      MERISTEM_UNROLL
      for (int m = 0; m < 2; ++m) {
        score_gradients(ds_t[m], p_t[m], stage.delta + static_cast<SharedAddress>(side * kHalf * 4));
        stage_rows<kQueries, kHalf>(gradients, row + 16 * m, side * kHalf / 8, ds_t[m], 1, 1);
      }
    }
    device::barrier();  // all scores of the step are there
    constexpr SharedAddress kScoreRow = kRowBytes<kQueries>;
    accumulate_product<kQueries, D, Of::kHalfColumns, kQueries>(dv, weights + row * kScoreRow, stage.d_out, side * Of::kHalfColumns / 8);
    accumulate_product<kQueries, D, Of::kHalfColumns, kQueries>(dk, gradients + row * kScoreRow, stage.rows, side * Of::kHalfColumns / 8);
    WarpMatrix<2, 32> sums;
    multiply_columns<kQueries, D>(sums, gradients, 4 * query_part, keys, 4 * column_part);
    const std::int64_t first_row = place.document_begin + query + 32 * query_part;
    add_query_gradients(device::gptr<float>(p.dq_sums) + (first_row * width + head * D + 32 * column_part), width,
                        place.length - query - 32 * query_part, sums);
    head = next_head;
    query = next_query;
    std::swap(now, next);
  }
  device::barrier();  // nobody reads keys and values any more: their places take the gradients
  write_gradient<D, 2, Of::kHalfColumns>(p.dk, place, kv_head, keys, row, side * Of::kHalfColumns / 8, dk, p.shape.scale);
  write_gradient<D, 2, Of::kHalfColumns>(p.dv, place, kv_head, values, row, side * Of::kHalfColumns / 8, dv, 1);
}

// dQ of its sums: eight elements a thread.
inline constexpr int kRoundThreads = 256;

template <int D>
MERISTEM_KERNEL(kRoundThreads, 4)
attention_round_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  constexpr int kChunks = D / 8;
  const std::int64_t at = static_cast<std::int64_t>(device::block_index()) * kRoundThreads + device::thread_index(), row = at / kChunks;
  const std::int64_t token = row / p.shape.heads;
  const int head = static_cast<int>(row % p.shape.heads), chunk = static_cast<int>(at % kChunks);
  if (token >= p.shape.tokens) return;
  const device::gptr<const float> sums = device::gptr<const float>(p.dq_sums) + at * 8;
  const device::Vec4 low = device::ldg<device::Vec4>(sums), high = device::ldg<device::Vec4>(sums + 4);
  const auto pair = [&](const device::Vec4& of, int i) {
    return device::pack_bf16(device::as_float(of.x[i]) * p.shape.scale, device::as_float(of.x[i + 1]) * p.shape.scale);
  };
  device::stg(device::gptr<std::uint16_t>(p.dq.data) + (token * p.dq.row_stride + head * p.dq.head_stride + chunk * 8),
              device::Vec4{{pair(low, 0), pair(low, 2), pair(high, 0), pair(high, 2)}});
}

template <int D>
void launch_attention_backward_tiled(const BackwardParameters& p, Stream stream) {
  device::launch("attention_backward_tiled", attention_backward_tiled_kernel<D>, tiles_of(p.shape, kTiledKeys) * p.shape.kv_heads,
                 kTiledThreads, Tiled<D>::kShared, stream, p);
  const std::int64_t chunks = static_cast<std::int64_t>(p.shape.tokens) * p.shape.heads * (D / 8);
  device::launch("attention_round", attention_round_kernel<D>, (chunks + kRoundThreads - 1) / kRoundThreads, kRoundThreads, 0, stream, p);
}

bool tiled_backward_fits(int head_dim) {
  return device::fits(device::limits(), head_dim == 64 ? Tiled<64>::kShared : Tiled<128>::kShared, 1);
}
void launch_attention_backward_tiled(const BackwardParameters& p, Stream stream) {
  p.shape.head_dim == 64 ? launch_attention_backward_tiled<64>(p, stream) : launch_attention_backward_tiled<128>(p, stream);
}

}  // namespace detail
}  // namespace meristem::kernels
