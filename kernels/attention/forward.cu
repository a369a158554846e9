// The forward kernel, Ampere design: a block owns 128 query rows of one head and walks over the keys that they see, 64 at a time.
// While it computes on one stage of shared memory, cp.async fills the other. docs/kernels.md has the drawing.
#include <utility>

#include "attention/place.h"

namespace meristem::kernels {
namespace detail {

struct ForwardParameters {
  AttentionShape shape;
  AttentionInput q, k, v;
  AttentionOutput out;
  float* log_sum_exp;
};

// The running softmax of one warp's 16 rows (Milakov and Gimelshein 2018; FlashAttention-2, algorithm 1). Lane 4g + t holds columns 2t and
// 2t + 1 of each eight, of rows g (half 0) and g + 8 (half 1).
struct RunningSoftmax {
  Registers<float, 2> max, sum;  // sum: of this lane's columns only, until `finish`
};

MERISTEM_DEVICE void start(RunningSoftmax& state) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    state.max[half] = -device::infinity();
    state.sum[half] = 0;
  }
}

// Turns scores into exp(scale * (score - max)) and scales what was summed before under a smaller maximum.
template <int tiles, int columns>
MERISTEM_DEVICE void advance(RunningSoftmax& state, Registers<Accumulator, tiles>& scores, Registers<Accumulator, columns>& out,
                             float scale_log2) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
    MERISTEM_UNROLL
    for (int n = 0; n < tiles; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 2; ++i) max = device::larger(max, scores[n][2 * half + i]);
    }
    MERISTEM_UNROLL
    for (int lanes = 1; lanes <= 2; lanes *= 2) max = device::larger(max, device::shuffle_xor(max, lanes));  // the four lanes of a row
    // A row that has seen no key yet: subtract 0, so that -infinity stays what it is.
    const float shift = max == -device::infinity() ? 0 : max * scale_log2;
    const float rescale = device::exp2_fast(state.max[half] * scale_log2 - shift);
    state.max[half] = max;
    float sum = state.sum[half] * rescale;
    MERISTEM_UNROLL
    for (int n = 0; n < tiles; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * half + i];
        score = device::exp2_fast(score * scale_log2 - shift);
        sum += score;
      }
    }
    state.sum[half] = sum;
    MERISTEM_UNROLL
    for (int n = 0; n < columns; ++n) {
      out[n][2 * half] *= rescale;
      out[n][2 * half + 1] *= rescale;
    }
  }
}

// The rows' whole sums.
MERISTEM_DEVICE void finish(RunningSoftmax& state) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    MERISTEM_UNROLL
    for (int lanes = 1; lanes <= 2; lanes *= 2) state.sum[half] += device::shuffle_xor(state.sum[half], lanes);
  }
}

inline constexpr int kForwardThreads = 128, kForwardRows = 128, kForwardBlocks = 2;  // of an SM
inline constexpr int kWarpTiles = 2;  // 16-row tiles of a warp: each fragment of K and V serves both

// Q; two stages of K and V. keys: of a step.
template <int D, int keys>
inline constexpr int kForwardShared = (kForwardRows + 4 * keys) * kRowBytes<D>;

template <int D>
using WarpOutput = WarpMatrix<kWarpTiles, D>;

// Normalises, writes the warp's rows of the output and their log-sum-exp. `row`: the warp's first row in the tile.
template <int D>
MERISTEM_DEVICE void write_output(const ForwardParameters& p, const Place& place, int head, int row, SharedAddress staging,
                                  const WarpOutput<D>& out, Registers<RunningSoftmax, kWarpTiles>& state) {
  const int lane = device::lane_index(), valid = place.length - place.first;
  const std::int64_t token = place.document_begin + place.first;
  const device::gptr<float> log_sum_exp = device::gptr<float>(p.log_sum_exp) + (static_cast<std::int64_t>(head) * p.shape.tokens + token);
  MERISTEM_UNROLL
  for (int m = 0; m < kWarpTiles; ++m) {
    finish(state[m]);
    stage_rows<D, D>(staging, row + 16 * m, 0, out[m], 1 / state[m].sum[0], 1 / state[m].sum[1]);
    MERISTEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row + 16 * m + 8 * half + lane / 4;
      if (lane % 4 == 0 && r < valid) {
        device::stg(log_sum_exp + r, state[m].max[half] * p.shape.scale + device::log_fast(state[m].sum[half]));
      }
    }
  }
  device::warp_sync();
  const device::gptr<std::uint16_t> to = device::gptr<std::uint16_t>(p.out.data) + (token * p.out.row_stride + head * p.out.head_stride);
  write_rows<D, 16 * kWarpTiles, D>(staging, row, 0, to, p.out.row_stride, valid);
}

template <int D, int kKeys>
MERISTEM_KERNEL(kForwardThreads, kForwardBlocks)
attention_forward_kernel(const MERISTEM_GRID_CONSTANT ForwardParameters p) {
  // Neighbouring blocks are heads of one tile, which share keys; late tiles, which see most keys under a causal mask, go first.
  const int tile = device::block_count() / p.shape.heads - 1 - device::block_index() / p.shape.heads;
  const int head = device::block_index() % p.shape.heads, kv_head = head / (p.shape.heads / p.shape.kv_heads);
  const Place place = place_of_tile(p.shape, tile, kForwardRows);
  if (place.first >= place.length) return;
  const Window window = window_of(p.shape, place.length);
  const int last_row = smaller(place.first + kForwardRows, place.length) - 1;
  const int key_begin = window.first(place.first) / kKeys * kKeys, key_end = window.last(last_row) + 1;

  const SharedAddress queries = device::shared_base(), stages = queries + kForwardRows * kRowBytes<D>;
  constexpr SharedAddress kKeyTile = kKeys * kRowBytes<D>;
  using Copy = TileCopy<D, kForwardThreads>;
  const std::int64_t document = place.document_begin, first_key = document + key_begin;
  const device::gptr<const std::uint16_t> all_k(p.k.data), all_v(p.v.data);
  device::gptr<const std::uint16_t> k = Copy::mine(all_k + (first_key * p.k.row_stride + kv_head * p.k.head_stride), p.k.row_stride);
  device::gptr<const std::uint16_t> v = Copy::mine(all_v + (first_key * p.v.row_stride + kv_head * p.v.head_stride), p.v.row_stride);
  // The next keys and values, of which `valid` are the document's.
  const auto copy_keys_values = [&](int valid, SharedAddress to) {
    copy_rows<D, kKeys, kForwardThreads>(to, k, p.k.row_stride, valid);
    copy_rows<D, kKeys, kForwardThreads>(to + kKeyTile, v, p.v.row_stride, valid);
    k = k + kKeys * p.k.row_stride;
    v = v + kKeys * p.v.row_stride;
  };
  const device::gptr<const std::uint16_t> q =
      device::gptr<const std::uint16_t>(p.q.data) + ((document + place.first) * p.q.row_stride + head * p.q.head_stride);
  copy_tile<D, kForwardRows, kForwardThreads>(queries, q, p.q.row_stride, place.length - place.first);
  copy_keys_values(place.length - key_begin, stages);
  device::cp_async_commit();

  const int row = device::warp_index() * 16 * kWarpTiles;  // of the tile
  const float scale_log2 = p.shape.scale * kLog2E;
  WarpOutput<D> out;
  Registers<RunningSoftmax, kWarpTiles> state;
  clear<kWarpTiles, D>(out);
  MERISTEM_UNROLL
  for (int m = 0; m < kWarpTiles; ++m) start(state[m]);
  SharedAddress keys = stages, next = stages + 2 * kKeyTile;
  for (int key = key_begin; key < key_end; key += kKeys) {
    device::cp_async_wait<0>();
    device::barrier();  // this stage has landed for all, and all have left the other one
    if (key + kKeys < key_end) copy_keys_values(place.length - key - kKeys, next);
    device::cp_async_commit();
    WarpMatrix<kWarpTiles, kKeys> scores;
    multiply_rows<D, kWarpTiles, kKeys>(scores, queries, row, keys);
    const int query = place.first + row;
    const bool masked = hides_any(window, query, 16 * kWarpTiles, key, kKeys);
    MERISTEM_UNROLL
    for (int m = 0; m < kWarpTiles; ++m) {
      if (masked) mask_keys(scores[m], window, query + 16 * m, key);
      advance(state[m], scores[m], out[m], scale_log2);
    }
    accumulate_columns<D, kWarpTiles, kKeys>(out, scores, keys + kKeyTile);
    std::swap(keys, next);
  }
  // The staging is the warp's own rows of the queries, which no other warp reads. The place is worked out again: kept through the loop, it
  // would take registers that the loop has not.
  write_output<D>(p, place_of_tile(p.shape, tile, kForwardRows), head, row, queries, out, state);
}

template <int D, int keys>
void launch_attention_forward(const ForwardParameters& p, Stream stream) {
  device::launch("attention_forward", attention_forward_kernel<D, keys>, tiles_of(p.shape, kForwardRows) * p.shape.heads, kForwardThreads,
                 kForwardShared<D, keys>, stream, p);
}

// At D = 128 two blocks with 64 keys a step take 192 KiB of an SM. Where it has less, two of 32 hide more than one of 64 saves.
inline void launch_attention_forward(const ForwardParameters& p, Stream stream) {
  if (p.shape.head_dim == 64) return launch_attention_forward<64, 64>(p, stream);
  device::fits(device::limits(), kForwardShared<128, 64>, kForwardBlocks) ? launch_attention_forward<128, 64>(p, stream)
                                                                          : launch_attention_forward<128, 32>(p, stream);
}

}  // namespace detail

void attention_forward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionOutput out,
                       float* log_sum_exp, Stream stream) {
  detail::check(shape);
  detail::check(q, "q");
  detail::check(k, "k");
  detail::check(v, "v");
  detail::check(out, "out");
  if (shape.tokens == 0) return;
  detail::launch_attention_forward({shape, q, k, v, out, log_sum_exp}, stream);
}

}  // namespace meristem::kernels
