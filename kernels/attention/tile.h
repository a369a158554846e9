// Tiles of D bf16 a row in shared memory, how they get there, how the tensor core's fragments are read from them, and the two products of
// attention on a warp's rows: with a tile's rows and with its columns.
//
// A row is D/8 chunks of 16 bytes; chunk c of row r lies at chunk c ^ (r % 8). So the eight rows that one ldmatrix phase reads at the same
// c lie in eight different groups of four banks, and so do the eight chunks of a row that eight neighbouring threads write.
#pragma once

#include <cstdint>

#include "device/layer.h"

namespace meristem::kernels::detail {

using device::Registers;
using device::SharedAddress;
using Fragment = Registers<std::uint32_t, 4>;
using Accumulator = Registers<float, 4>;

inline constexpr float kLog2E = 1.4426950408889634f;

template <int D>
MERISTEM_DEVICE SharedAddress chunk_address(SharedAddress tile, int row, int chunk) {
  return tile + static_cast<SharedAddress>(row * (D * 2) + ((chunk ^ (row & 7)) * 16));
}

template <int D>
inline constexpr int kRowBytes = D * 2;

// Copies of a tile's rows by all threads of a block, who share them out: `kAtOnce` rows at a time, a multiple of 8, so that a thread's
// chunk stands at the same place in each of its rows and one address serves all of them.
template <int D, int threads>
struct TileCopy {
  static constexpr int kChunks = D / 8, kAtOnce = threads / kChunks;
  static_assert(threads % kChunks == 0 && kAtOnce % 8 == 0);
  MERISTEM_DEVICE static int row() { return device::thread_index() / kChunks; }
  MERISTEM_DEVICE static int chunk() { return device::thread_index() % kChunks; }
  // The thread's first row in a tile whose row 0 is `from`.
  MERISTEM_DEVICE static device::gptr<const std::uint16_t> mine(device::gptr<const std::uint16_t> from, std::int64_t row_stride) {
    return from + (row() * row_stride + chunk() * 8);
  }
};

// Starts copies of rows 0 to rows - 1; rows from `valid` on become zeros. mine: the thread's first row (TileCopy).
template <int D, int rows, int threads>
MERISTEM_DEVICE void copy_rows(SharedAddress tile, device::gptr<const std::uint16_t> mine, std::int64_t row_stride, int valid) {
  using Copy = TileCopy<D, threads>;
  static_assert(rows % Copy::kAtOnce == 0);
  const SharedAddress to = chunk_address<D>(tile, Copy::row(), Copy::chunk());
  MERISTEM_UNROLL
  for (int i = 0; i < rows; i += Copy::kAtOnce) {
    device::cp_async_16(to + static_cast<SharedAddress>(i * kRowBytes<D>), mine + i * row_stride, Copy::row() + i < valid);
  }
}
template <int D, int rows, int threads>
MERISTEM_DEVICE void copy_tile(SharedAddress tile, device::gptr<const std::uint16_t> from, std::int64_t row_stride, int valid) {
  copy_rows<D, rows, threads>(tile, TileCopy<D, threads>::mine(from, row_stride), row_stride, valid);
}

// Where a lane's row of a fragment lies: row + lane_row, chunk 2 step + lane_chunk, for a `row` that is a multiple of 8. The low bits of
// its offset are the chunk's alone, and a tile begins at a multiple of 128 bytes: so the step flips bits of one address in place, and what
// differs between fragments beyond that are constants of the instruction.
template <int D>
MERISTEM_DEVICE SharedAddress fragment_address(SharedAddress tile, int row, int lane_row, int lane_chunk, int step) {
  const SharedAddress flipped = static_cast<SharedAddress>(32 * step) % 128, beyond = static_cast<SharedAddress>(32 * step) / 128 * 128;
  return ((tile + chunk_address<D>(0, lane_row, lane_chunk)) ^ flipped) + (static_cast<SharedAddress>(row * kRowBytes<D>) + beyond);
}

// Rows row to row + 15 as the left operand, columns 16 step to 16 step + 15.
template <int D>
MERISTEM_DEVICE void load_left(Fragment& to, SharedAddress tile, int row, int step) {
  const int lane = device::lane_index();
  device::ldmatrix_x4(to, fragment_address<D>(tile, row, lane % 16, lane / 16, step));
}

// Rows row to row + 15 as two right operands whose columns they are (the product with the tile's transpose), columns 16 step to 16 step +
// 15: words 0, 1 for the first eight rows, 2, 3 for the others.
template <int D>
MERISTEM_DEVICE void load_right_of_rows(Fragment& to, SharedAddress tile, int row, int step) {
  const int lane = device::lane_index();
  device::ldmatrix_x4(to, fragment_address<D>(tile, row, lane / 16 * 8 + lane % 8, lane / 8 % 2, step));
}

// Columns 16 pair to 16 pair + 15, counted from chunk `chunk` on (a multiple of four; of eight where pair reaches 4), as two right
// operands, summed over rows row to row + 15.
template <int D>
MERISTEM_DEVICE void load_right_of_columns(Fragment& to, SharedAddress tile, int row, int pair, int chunk = 0) {
  const int lane = device::lane_index();
  device::ldmatrix_x4_trans(to, fragment_address<D>(tile, row, lane % 16, chunk + lane / 16, pair));
}

// As load_left, of the tile's transpose: columns 16 part to 16 part + 15, counted from chunk `chunk` on, are the operand's rows, and the
// tile's rows row to row + 15 its columns.
template <int D>
MERISTEM_DEVICE void load_left_of_columns(Fragment& to, SharedAddress tile, int row, int part, int chunk) {
  const int lane = device::lane_index();
  device::ldmatrix_x4_trans(to, fragment_address<D>(tile, row, lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2, part));
}

// Accumulators of 16 x 16 as the left operand of the next product: lane for lane the same elements, rounded to bf16.
MERISTEM_DEVICE void pack_left(Fragment& to, const Accumulator& left, const Accumulator& right) {
  to[0] = device::pack_bf16(left[0], left[1]);
  to[1] = device::pack_bf16(left[2], left[3]);
  to[2] = device::pack_bf16(right[0], right[1]);
  to[3] = device::pack_bf16(right[2], right[3]);
}

// This warp's accumulators, 16 rows from `row` on and `columns` columns from chunk `chunk` on, into the tile, rounded to bf16.
template <int D, int columns>
MERISTEM_DEVICE void stage_rows(SharedAddress tile, int row, int chunk, const Registers<Accumulator, columns / 8>& rows, float low_factor,
                                float high_factor) {
  const int lane = device::lane_index(), word = lane % 4 * 4;
  MERISTEM_UNROLL
  for (int n = 0; n < columns / 8; ++n) {
    const SharedAddress at = chunk_address<D>(tile, row + lane / 4, chunk + n) + word;
    device::sts(at, device::pack_bf16(rows[n][0] * low_factor, rows[n][1] * low_factor));
    device::sts(at + 8 * kRowBytes<D>, device::pack_bf16(rows[n][2] * high_factor, rows[n][3] * high_factor));
  }
}

// `count` staged rows from `row` on, `columns` columns from chunk `chunk` on, to global memory, 16 bytes a lane; rows from `valid` on are
// left out. `to` is the tile's row 0.
template <int D, int count, int columns>
MERISTEM_DEVICE void write_rows(SharedAddress tile, int row, int first_chunk, device::gptr<std::uint16_t> to, std::int64_t row_stride,
                                int valid) {
  constexpr int kChunks = columns / 8;
  static_assert(kChunks >= 4);
  MERISTEM_UNROLL
  for (int i = 0; i < count * kChunks / device::kWarp; ++i) {
    const int at = i * device::kWarp + device::lane_index(), chunk = first_chunk + at % kChunks;
    // Eight lanes read at a time. Where they have two rows, these lie four apart: their chunks then fall on different banks.
    const int r = row + (kChunks == 4 ? at / 32 * 8 + at / 4 % 2 * 4 + at / 8 % 4 : at / kChunks);
    const auto words = device::lds<device::Vec4>(chunk_address<D>(tile, r, chunk));
    if (r < valid) device::stg(to + (r * row_stride + chunk * 8), words);
  }
}

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
    for (int m = 0; m < row_tiles; ++m) load_left<D>(a[m], left + static_cast<SharedAddress>(row * kRowBytes<D>), 16 * m, step);
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
