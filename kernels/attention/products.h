// The two products of attention on a warp's rows, 16 at a time: with a tile's rows and with its columns.
#pragma once

#include "attention/tile.h"

namespace meristem::kernels::detail {

// 16 * row_tiles rows and `columns` columns, as accumulators of 16 x 8.
template <int row_tiles, int columns>
using WarpMatrix = Registers<Registers<Accumulator, columns / 8>, row_tiles>;

template <int row_tiles, int columns>
MERISTEM_DEVICE void clear(WarpMatrix<row_tiles, columns>& all) {
  MERISTEM_UNROLL
  for (int m = 0; m < row_tiles; ++m) {
    MERISTEM_UNROLL
    for (int n = 0; n < columns / 8; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 4; ++i) all[m][n][i] = 0;
    }
  }
}

// product = left right^T: rows `row` on of the tile `left` with the first `columns` rows of the tile `right`.
template <int D, int row_tiles, int columns>
MERISTEM_DEVICE void multiply_rows(WarpMatrix<row_tiles, columns>& product, SharedAddress left, int row, SharedAddress right) {
  clear<row_tiles, columns>(product);
  MERISTEM_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    Registers<Fragment, row_tiles> a;
    MERISTEM_UNROLL
    for (int m = 0; m < row_tiles; ++m) load_left<D>(a[m], left, row + 16 * m, step);
    MERISTEM_UNROLL
    for (int pair = 0; pair < columns / 16; ++pair) {
      Fragment b;
      load_right_of_rows<D>(b, right, 16 * pair, step);
      MERISTEM_UNROLL
      for (int m = 0; m < row_tiles; ++m) {
        device::mma_m16n8k16(product[m][2 * pair], a[m], b[0], b[1]);
        device::mma_m16n8k16(product[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// sum += weights right: weights (rounded to bf16) over the first `inner` rows of the tile `right`. They go from accumulators to operands
// without leaving the registers.
template <int D, int row_tiles, int inner>
MERISTEM_DEVICE void accumulate_columns(WarpMatrix<row_tiles, D>& sum, const WarpMatrix<row_tiles, inner>& weights, SharedAddress right) {
  MERISTEM_UNROLL
  for (int step = 0; step < inner / 16; ++step) {
    Registers<Fragment, row_tiles> a;
    MERISTEM_UNROLL
    for (int m = 0; m < row_tiles; ++m) pack_left(a[m], weights[m][2 * step], weights[m][2 * step + 1]);
    MERISTEM_UNROLL
    for (int pair = 0; pair < D / 16; ++pair) {
      Fragment b;
      load_right_of_columns<D>(b, right, 16 * step, pair);
      MERISTEM_UNROLL
      for (int m = 0; m < row_tiles; ++m) {
        device::mma_m16n8k16(sum[m][2 * pair], a[m], b[0], b[1]);
        device::mma_m16n8k16(sum[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

}  // namespace meristem::kernels::detail
