// How many blocks and exchanges a problem needs and how many bytes it leaves: a block too many, or an element that two lanes write, changes
// no result.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/attention/work.h"
#include "kernels/depth_attention/problem.h"

namespace meristem::test {

// Of the forward or the backward kernel.
inline Work depth_work(const DepthCase& given, bool backward) {
  const unsigned group = static_cast<unsigned>(given.heads / given.kv_heads);
  // Lanes of a row of a key head: a power of two for its chunks, at most a warp, once for every four query heads begun.
  const unsigned row_lanes = std::min(std::bit_ceil(static_cast<unsigned>(given.head_dim / 8)), 32u),
                 parts = std::bit_ceil((group + 3) / 4);
  const std::int64_t rows = std::int64_t{given.tokens} * given.kv_heads, of_block = 128 / (row_lanes * parts);
  const std::int64_t queries = std::int64_t{given.tokens} * given.heads * given.head_dim * 2, entries = rows * given.head_dim * 2;
  Work work;
  work.blocks = (rows + of_block - 1) / of_block;
  work.stored = queries + (backward ? 2 * given.entries * entries : 4 * std::int64_t{given.tokens} * given.heads);
  // What the sums over lanes take, in four warps a block: scores of a batch of entries at once, in the backward pass two for each entry
  // that there is and delta; and there, over a group's parts, eight elements of each chunk's key and value.
  const int heads = group > 2 ? 4 : static_cast<int>(group), chunks = given.head_dim > 512 ? 4 : given.head_dim > 256 ? 2 : 1;
  const int batch = heads == 4 ? 2 : 4 / chunks, batches = (given.entries + batch - 1) / batch;
  const std::int64_t scores = heads * std::countr_zero(row_lanes), columns = 2 * 8 * chunks * std::countr_zero(parts);
  work.exchanges = 4 * work.blocks * (backward ? scores + given.entries * (2 * scores + columns) : batches * batch * scores);
  return work;
}

}  // namespace meristem::test
