// What a caller may ask for, and who works on what. Neighbouring lanes share one key head's row of a token, 16 bytes each; the key heads of
// a token are neighbours too, so a warp reads 512 bytes of an entry side by side. More than four query heads a key head are split into
// parts of four, whose lanes load the same bytes in the same instruction.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

#include "meristem_kernels/depth_attention.h"
#include "rows/chunk.h"
#include "rows/dispatch.h"

namespace meristem::kernels::detail {

struct DepthEntries {
  DepthInput keys[kDepthEntries], values[kDepthEntries];
};

// How many lanes share a row of one key head, 16 bytes each, and how many times, each for a part of the query heads; powers of two.
struct DepthLanes {
  int lanes, parts;
};

inline constexpr int kDepthWarps = 4, kDepthThreads = 32 * kDepthWarps;

inline std::int64_t depth_blocks(const DepthAttentionShape& shape, const DepthLanes& split) {
  const int rows = kDepthThreads / (split.lanes * split.parts);  // of one key head, that a block has
  return (static_cast<std::int64_t>(shape.tokens) * shape.kv_heads + rows - 1) / rows;
}

inline constexpr int kChunk = 8;      // bf16 of 16 bytes
inline constexpr int kPartHeads = 4;  // query heads whose sums the registers of a lane hold
inline constexpr std::int64_t kMostRows = std::int64_t{1} << 30;

// Each lane has 16 bytes of a row, or more than one such chunk where the row is wider than a warp.
inline int lanes_of(int head_dim) {
  return head_dim >= 32 * kChunk ? 32 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(head_dim / kChunk)));
}

inline DepthLanes split_of(const DepthAttentionShape& shape) {
  const unsigned group = static_cast<unsigned>(shape.heads / shape.kv_heads);
  return {lanes_of(shape.head_dim), static_cast<int>(std::bit_ceil((group + kPartHeads - 1) / kPartHeads))};
}

inline constexpr const char* kDepthKernel = "depth attention";

inline void check(const DepthAttentionShape& shape, int fewest_entries) {
  require(shape.tokens >= 0, kDepthKernel, "a negative number of tokens");
  require(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0, kDepthKernel,
          std::to_string(shape.heads) + " query heads over " + std::to_string(shape.kv_heads) + " key heads");
  require(static_cast<std::int64_t>(shape.tokens) * shape.kv_heads <= kMostRows, kDepthKernel, "more than 2^30 tokens times key heads");
  require(shape.entries >= fewest_entries && shape.entries <= kDepthEntries, kDepthKernel,
          std::to_string(shape.entries) + " entries; allowed: " + std::to_string(fewest_entries) + " to " + std::to_string(kDepthEntries));
  const int group = shape.heads / shape.kv_heads, widest = depth_head_dim_most(group);
  require(shape.head_dim > 0 && shape.head_dim % kChunk == 0 && shape.head_dim <= widest, kDepthKernel,
          "head dim " + std::to_string(shape.head_dim) + " with " + std::to_string(group) +
              " query heads a key head; allowed: multiples of 8 up to " + std::to_string(widest));
  const int most = depth_group_most(shape.head_dim);
  require(
      group <= most, kDepthKernel,
      std::to_string(group) + " query heads a key head of " + std::to_string(shape.head_dim) + "; allowed: 1 to " + std::to_string(most));
  require(shape.scale > 0, kDepthKernel, "the scale must be positive");
}

template <class Rows>
void check(const Rows& rows, const std::string& name) {
  require_aligned(rows.data, kDepthKernel, name);
  require(rows.row_stride % kChunk == 0, kDepthKernel, name + ": a row stride that is no multiple of 8");
}

inline void check(const DepthEntryGradient& gradient, const std::string& name) { check(gradient.rows, name); }

template <class Rows>
void copy_table(Rows* to, const Rows* from, int count, const std::string& name) {
  for (int i = 0; i < count; ++i) {
    check(from[i], name + " " + std::to_string(i));
    to[i] = from[i];
  }
}

// body<heads, chunks>() for the instantiation that serves the shape.
template <class Body>
void dispatch(const DepthAttentionShape& shape, const Body& body) {
  const int group = shape.heads / shape.kv_heads;
  if (group > 2) return body.template operator()<4, 1>();
  if (group > 1) return body.template operator()<2, 1>();
  if (shape.head_dim > 512) return body.template operator()<1, 4>();
  if (shape.head_dim > 256) return body.template operator()<1, 2>();
  body.template operator()<1, 1>();
}

// Where a lane works.
struct DepthLane {
  bool valid;  // false: beyond the last row; takes part in shuffles and touches no memory
  int token, kv_head, group, head_dim, lane, lanes;
  int part, first_head;  // query heads of the group, counted from 0, from first_head on

  // First of this lane's eight columns of chunk c in a head.
  MERISTEM_DEVICE int offset(int c) const { return 8 * (c * lanes + lane); }
  MERISTEM_DEVICE bool has(int c) const { return valid && offset(c) < head_dim; }
  MERISTEM_DEVICE bool has_head(int h) const { return valid && first_head + h < group; }
  MERISTEM_DEVICE int head(int h) const { return kv_head * group + first_head + h; }
  // Where chunk c lies in a row of key heads, and of this part's query head h in a row of query heads.
  MERISTEM_DEVICE int key_column(int c) const { return kv_head * head_dim + offset(c); }
  MERISTEM_DEVICE int query_column(int h, int c) const { return head(h) * head_dim + offset(c); }
};

// heads: query heads of a part.
MERISTEM_DEVICE DepthLane depth_lane(const DepthAttentionShape& shape, const DepthLanes& split, int heads) {
  const int lanes = split.lanes * split.parts;  // of a row
  const int row = device::block_index() * (kDepthThreads / lanes) + device::thread_index() / lanes;
  const int part = device::thread_index() / split.lanes % split.parts;
  return {row < shape.tokens * shape.kv_heads,
          row / shape.kv_heads,
          row % shape.kv_heads,
          shape.heads / shape.kv_heads,
          shape.head_dim,
          device::thread_index() % split.lanes,
          split.lanes,
          part,
          part * heads};
}

// A row's log-sum-exp for this part's query head h.
MERISTEM_DEVICE device::gptr<float> log_sum_exp_of(const DepthLogSumExp& of, const DepthLane& lane, int h) {
  return device::gptr<float>(of.data) + (lane.token * of.token_stride + lane.head(h) * of.head_stride);
}

// Eight bf16 at a column of the lane's token; zeros where `valid` is false.
template <class Rows>
MERISTEM_DEVICE Vec4 load_chunk(const Rows& from, const DepthLane& lane, int column, bool valid) {
  if (!valid) return Vec4{};
  return device::ldg<Vec4>(device::gptr(from.data) + (lane.token * from.row_stride + column));
}
MERISTEM_DEVICE void store_chunk(const DepthOutput& to, const DepthLane& lane, int column, const Vec4& chunk) {
  device::stg(device::gptr<std::uint16_t>(to.data) + (lane.token * to.row_stride + column), chunk);
}

// This part's query heads of a matrix [N, H * D], this lane's chunks; heads that the group lacks are zeros.
template <int heads, int chunks, class Rows>
MERISTEM_DEVICE void load_queries(Registers<Vec4, heads * chunks>& to, const Rows& from, const DepthLane& lane) {
  MERISTEM_UNROLL
  for (int h = 0; h < heads; ++h) {
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) to[h * chunks + c] = load_chunk(from, lane, lane.query_column(h, c), lane.has_head(h) && lane.has(c));
  }
}

// `batch` entries from `first` on, this lane's chunks of their keys and values; what lies beyond the last entry is zeros.
template <int batch, int chunks, class Parameters>
MERISTEM_DEVICE void load_entries(Registers<Vec4, batch * chunks>& keys, Registers<Vec4, batch * chunks>& values, const Parameters& p,
                                  const DepthLane& lane, int first) {
  MERISTEM_UNROLL
  for (int u = 0; u < batch; ++u) {
    MERISTEM_UNROLL
    for (int c = 0; c < chunks; ++c) {
      const bool valid = first + u < p.shape.entries && lane.has(c);
      const int entry = valid ? first + u : 0;
      keys[u * chunks + c] = load_chunk(p.entries.keys[entry], lane, lane.key_column(c), valid);
      values[u * chunks + c] = load_chunk(p.entries.values[entry], lane, lane.key_column(c), valid);
    }
  }
}

// Over the lane's chunks of a head: `a` from chunk `first_a` on with `b` from chunk `first_b` on.
template <int chunks, int count_a, int count_b>
MERISTEM_DEVICE float dot_chunks(const Registers<Vec4, count_a>& a, int first_a, const Registers<Vec4, count_b>& b, int first_b) {
  float sum = 0;
  MERISTEM_UNROLL
  for (int c = 0; c < chunks; ++c) sum += dot_chunk(a[first_a + c], b[first_b + c]);
  return sum;
}

inline constexpr float kDepthLog2E = 1.4426950408889634f, kDepthLn2 = 0.6931471805599453f;

}  // namespace meristem::kernels::detail
