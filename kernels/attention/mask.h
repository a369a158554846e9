// Hiding scores. Lane 4g + t holds columns 2t and 2t + 1 of each eight, of rows g (half 0) and g + 8 (half 1).
#pragma once

#include "attention/place.h"
#include "attention/tile.h"

namespace meristem::kernels::detail {

// Whether some pair of these queries and keys, `queries` and `keys` many, is hidden.
MERISTEM_DEVICE bool hides_any(const Window& window, int query, int queries, int key, int keys) {
  return key < window.first(query + queries - 1) || key + keys - 1 > window.last(query);
}

// Rows are queries from `row` on, columns keys from `key` on.
template <int tiles>
MERISTEM_DEVICE void mask_keys(Registers<Accumulator, tiles>& scores, const Window& window, int row, int key) {
  const int lane = device::lane_index();
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = row + lane / 4 + 8 * half, first = window.first(query), last = window.last(query);
    MERISTEM_UNROLL
    for (int n = 0; n < tiles; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int column = key + 8 * n + lane % 4 * 2 + i;
        if (column < first || column > last) scores[n][2 * half + i] = -device::infinity();
      }
    }
  }
}

// Rows are keys from `row` on, columns queries from `query` on.
template <int tiles>
MERISTEM_DEVICE void mask_queries(Registers<Accumulator, tiles>& scores, const Window& window, int row, int query) {
  const int lane = device::lane_index();
  MERISTEM_UNROLL
  for (int n = 0; n < tiles; ++n) {
    MERISTEM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = query + 8 * n + lane % 4 * 2 + i, first = window.first(column), last = window.last(column);
      MERISTEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int key = row + lane / 4 + 8 * half;
        if (key < first || key > last) scores[n][2 * half + i] = -device::infinity();
      }
    }
  }
}

}  // namespace meristem::kernels::detail
