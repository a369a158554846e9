// How many blocks a problem needs and how many bytes it leaves: a block too many, or an element that two lanes write, changes no result.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/attention/work.h"
#include "kernels/depth_attention/problem.h"

namespace meristem::test {

// Of run_depth: the forward and the backward kernel.
inline Work depth_work(const DepthCase& given) {
  const unsigned chunks = static_cast<unsigned>(given.head_dim / 8), group = static_cast<unsigned>(given.heads / given.kv_heads);
  // Lanes of a row of a key head: a power of two for its chunks, at most a warp, once for every four query heads begun.
  const int lanes = static_cast<int>(std::min(std::bit_ceil(chunks), 32u) * std::bit_ceil((group + 3) / 4));
  const std::int64_t rows = std::int64_t{given.tokens} * given.kv_heads, of_block = 128 / lanes;
  const std::int64_t queries = std::int64_t{given.tokens} * given.heads * given.head_dim * 2, entries = rows * given.head_dim * 2;
  Work work;
  work.blocks = 2 * ((rows + of_block - 1) / of_block);
  work.stored =
      queries + 4 * std::int64_t{given.tokens} * given.heads + queries + 2 * given.entries * entries;  // out, log-sum-exp, gradients
  return work;
}

}  // namespace meristem::test
