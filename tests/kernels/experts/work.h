// How many blocks, barriers and exchanges a problem needs and how many bytes it leaves: a block too many, or an element that two lanes
// write, changes no result.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/attention/work.h"
#include "kernels/experts/problem.h"

namespace meristem::test {

// Of run_sort. A warp has a tile of 512 choices and a block of four counts or places four; one of sixteen warps scans 32 experts.
inline Work sort_work(const ExpertCase& given) {
  const std::int64_t choices = std::int64_t{given.tokens} * given.choices, experts = given.experts;
  const std::int64_t tiles = (choices + 511) / 512, counting = (tiles + 3) / 4, scanning = (experts + 31) / 32;
  const std::int64_t placing = std::max<std::int64_t>(counting, 1);  // the ends are written though there be no choice
  Work work;
  work.blocks = counting + scanning + placing;
  work.barriers = 16 * scanning + 4 * 2 * placing;
  work.stored = 4 * (tiles * experts + (tiles + 1) * experts + choices + experts);  // counts; those before each tile, sums; places, ends
  // Five shuffles sum up a warp's counts. For every 32 choices of a tile: which lanes have one, and which have each bit that an expert's
  // number may have.
  work.exchanges = 4 * 5 * placing + tiles * (512 / 32) * (1 + std::bit_width(static_cast<unsigned>(given.experts - 1)));
  return work;
}

// Bytes of shared memory that a block may have: the scan's sums of 16 warps by 32 experts; or the placing's first row of each expert, four
// sums, and each warp's next row of each expert.
inline int sort_shared(const ExpertCase& given) { return std::max(4 * 16 * 32, 4 * (given.experts + 4 + 4 * given.experts)); }

// Of run_rows. A block has eight tokens.
inline Work rows_work(const ExpertCase& given) {
  const std::int64_t choices = std::int64_t{given.tokens} * given.choices;
  Work work;
  work.blocks = 3 * ((std::int64_t{given.tokens} + 7) / 8);
  work.exchanges = given.tokens * ((given.choices + 3) / 4 * 4 * 5);                 // d_weights of four choices at once
  work.stored = 2 * given.width * (choices + given.tokens + choices) + 4 * choices;  // gathered, y, d_rows; d_weights
  return work;
}

}  // namespace meristem::test
