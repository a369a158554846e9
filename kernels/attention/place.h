// What a caller may ask for, where a block works (which rows of which document), and which keys these rows see.
#pragma once

#include <cstdint>
#include <string>

#include "attention/tile.h"
#include "meristem_kernels/attention.h"
#include "rows/dispatch.h"

namespace meristem::kernels::detail {

inline void check(const AttentionShape& shape) {
  require(shape.head_dim == 64 || shape.head_dim == 128, "attention", "head dim " + std::to_string(shape.head_dim) + "; allowed: 64, 128");
  require(shape.tokens >= 0 && shape.documents >= 0, "attention", "a negative count");
  require(shape.tokens == 0 || shape.documents > 0, "attention", "tokens of no document");  // offsets would hold no end
  require(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0, "attention",
          std::to_string(shape.heads) + " query heads over " + std::to_string(shape.kv_heads) + " key heads");
  require(shape.scale > 0, "attention", "the scale must be positive");
}

// A row starts on 16 bytes, so that a copy of 16 can.
template <class Matrix>
void check(const Matrix& matrix, const char* name) {
  require_aligned(matrix.data, "attention", name);
  require(matrix.row_stride % 8 == 0 && matrix.head_stride % 8 == 0, "attention",
          std::string(name) + ": a stride that is no multiple of 8");
}

// How many tiles of `rows` tokens the grid offers: enough for every way to cut `tokens` into `documents`, so that no host reads the
// offsets.
inline std::int64_t tiles_of(const AttentionShape& shape, int rows) { return shape.tokens / rows + shape.documents; }

// Where a block works.
struct Place {
  int document_begin, length;  // the document's first token, its tokens
  int first;                   // the tile's first row in the document; not below `length`: the tile is empty
};

// Document d owns the tiles from offsets[d] / rows + d on. These starts grow by at least ceil(length / rows) from d to d + 1, so tiles of
// two documents never meet, and at most one tile a document stays empty.
MERISTEM_DEVICE Place place_of_tile(const AttentionShape& shape, int tile, int rows) {
  const device::gptr<const std::int32_t> offsets(shape.offsets);
  int low = 0, high = shape.documents - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (device::ldg<std::int32_t>(offsets + middle) / rows + middle <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int begin = device::ldg<std::int32_t>(offsets + low), end = device::ldg<std::int32_t>(offsets + (low + 1));
  return {begin, end - begin, (tile - begin / rows - low) * rows};
}

// The mask: query `row` sees keys first(row) to last(row) of its document.
struct Window {
  int left, right, length;
  MERISTEM_DEVICE int first(int row) const { return row > left ? row - left : 0; }
  MERISTEM_DEVICE int last(int row) const { return row < length - right ? row + right : length - 1; }
};
MERISTEM_DEVICE Window window_of(const AttentionShape& shape, int length) {
  return {shape.window_left < 0 || shape.window_left > length ? length : shape.window_left,
          shape.window_right < 0 || shape.window_right > length ? length : shape.window_right, length};
}

MERISTEM_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
MERISTEM_DEVICE int larger(int a, int b) { return a > b ? a : b; }

// Hiding scores. Lane 4g + t holds columns 2t and 2t + 1 of each eight, of rows g (half 0) and g + 8 (half 1).

// Whether some pair of these queries and keys, `queries` and `keys` many, is hidden.
MERISTEM_DEVICE bool hides_any(const Window& window, int query, int queries, int key, int keys) {
  return key < window.first(query + queries - 1) || key + keys - 1 > window.last(query);
}

// Hides what lies outside of columns first to last, which count from the lane's own first one: so each is a constant.
template <int tiles>
MERISTEM_DEVICE void keep_columns(Registers<Accumulator, tiles>& scores, int half, int first, int last) {
  MERISTEM_UNROLL
  for (int n = 0; n < tiles; ++n) {
    MERISTEM_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (8 * n + i < first || 8 * n + i > last) scores[n][2 * half + i] = -device::infinity();
    }
  }
}

// Rows are queries from `row` on, columns keys from `key` on.
template <int tiles>
MERISTEM_DEVICE void mask_keys(Registers<Accumulator, tiles>& scores, const Window& window, int row, int key) {
  const int lane = device::lane_index(), mine = key + lane % 4 * 2;
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = row + lane / 4 + 8 * half;
    keep_columns(scores, half, window.first(query) - mine, window.last(query) - mine);
  }
}

// Rows are keys from `row` on, columns queries from `query` on.
template <int tiles>
MERISTEM_DEVICE void mask_queries(Registers<Accumulator, tiles>& scores, const Window& window, int row, int query) {
  const int lane = device::lane_index(), mine = query + lane % 4 * 2;
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int key = row + lane / 4 + 8 * half;
    keep_columns(scores, half, key - window.right - mine, key < window.length ? key + window.left - mine : -1);
  }
}

}  // namespace meristem::kernels::detail
