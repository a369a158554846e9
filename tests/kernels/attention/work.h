// How much work a problem needs, counted from which keys each query sees: a kernel that also visits tiles without a visible pair gives the
// same results, later.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

using kernels::device::host::Work;

inline std::int64_t tokens_of(const AttentionCase& given) {
  std::int64_t tokens = 0;
  for (const int length : given.lengths) tokens += length;
  return tokens;
}

// The first and the last key that a query sees.
struct Seen {
  int first, last;
};
inline Seen keys_of(const AttentionCase& given, int length, int query) {
  return {given.window_left < 0 ? 0 : std::max(0, query - given.window_left),
          given.window_right < 0 ? length - 1 : std::min(length - 1, query + given.window_right)};
}

// Over all documents and the tiles of `rows` rows that they are cut into: how many tiles there are, and how many steps of `columns` columns
// the rows of each need, from the first column that one of them sees to the last. Columns are keys, or queries if `transposed`.
struct TileCount {
  int tiles = 0, steps = 0;
};
inline TileCount count_tiles(const AttentionCase& given, int rows, int columns, bool transposed) {
  TileCount count;
  for (const int length : given.lengths) {
    for (int begin = 0; begin < length; begin += rows) {
      const int end = std::min(begin + rows, length);
      int first = length, last = -1;
      for (int query = 0; query < length; ++query) {
        const Seen keys = keys_of(given, length, query);
        if (transposed ? keys.last < begin || keys.first >= end : query < begin || query >= end) continue;
        first = std::min(first, transposed ? query : keys.first);
        last = std::max(last, transposed ? query : keys.last);
      }
      ++count.tiles;
      count.steps += last / columns - first / columns + 1;
    }
  }
  return count;
}

// One kernel's: `heads` blocks a tile; `fixed` rows copied once a tile, `streamed` ones a step; products of [rows, columns] by D a step.
inline Work tiled_work(const AttentionCase& given, int rows, int columns, bool transposed, int heads, int fixed, int streamed,
                       int products) {
  const TileCount count = count_tiles(given, rows, columns, transposed);
  const int chunks = given.head_dim / 8, steps = count.steps * (transposed ? given.heads : heads);  // a key tile takes each query head
  Work work;
  work.products = std::int64_t{products} * steps * rows * columns * given.head_dim / (16 * 8 * 16);
  work.copies = (std::int64_t{count.tiles} * heads * fixed + std::int64_t{steps} * streamed) * chunks;
  work.barriers = std::int64_t{steps} * 4;  // one a step, of four warps
  work.blocks = (tokens_of(given) / rows + static_cast<std::int64_t>(given.lengths.size())) * heads;
  return work;
}

inline Work forward_work(const AttentionCase& given) {
  const int keys = given.head_dim == 64 ? 64 : 32;
  Work work = tiled_work(given, 128, keys, false, given.heads, 128, 2 * keys, 2);
  work.stored = tokens_of(given) * given.heads * (2 * given.head_dim + 4);  // out and log-sum-exp
  // Of four warps with two tiles of 16 rows each: the maximum of the four lanes of a row in each step, their sum at the end.
  const std::int64_t steps = work.barriers / 4, tiles = std::int64_t{count_tiles(given, 128, keys, false).tiles} * given.heads;
  work.exchanges = 4 * 2 * 2 * 2 * (steps + tiles);
  return work;
}

inline Work backward_work(const AttentionCase& given) {
  const int queries = given.head_dim == 64 ? 64 : 32;
  const Work keys = tiled_work(given, 64, queries, true, given.kv_heads, 128, 2 * queries, 4);
  const Work rows = tiled_work(given, 64, 64, false, given.heads, 128, 128, 3);
  const std::int64_t numbers = tokens_of(given) * given.heads;  // delta's
  const int delta_rows = 128 / (given.head_dim / 8);            // of a block of the kernel that computes it
  const std::int64_t delta_blocks = (numbers + delta_rows - 1) / delta_rows;
  return {keys.blocks + rows.blocks + delta_blocks,
          keys.products + rows.products,
          keys.copies + rows.copies,
          keys.barriers + rows.barriers,
          numbers * 4 + tokens_of(given) * (given.heads + 2 * given.kv_heads) * given.head_dim * 2,
          delta_blocks * 4 * (given.head_dim == 64 ? 3 : 4)};  // delta's sum over the lanes of a row
}

inline std::string describe(const Work& work) {
  return std::to_string(work.blocks) + " blocks, " + std::to_string(work.products) + " products, " + std::to_string(work.copies) +
         " copies, " + std::to_string(work.barriers) + " barriers, " + std::to_string(work.stored) + " bytes stored, " +
         std::to_string(work.exchanges) + " exchanges";
}

// Empty where `done` is what was needed.
inline std::string compare_work(const Work& done, const Work& needed) {
  return done == needed ? "" : describe(done) + "; needed: " + describe(needed);
}

}  // namespace meristem::test
