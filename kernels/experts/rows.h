// The rows of sorted choices, by the tokens that they are of: a warp has one token, and its lanes the chunks of a row. Every row has one
// token and one choice, so every element one writer.
#pragma once

#include "experts/parameters.h"
#include "rows/chunk.h"

namespace meristem::kernels::detail {

inline constexpr int kRowsWarps = 8, kRowsThreads = 32 * kRowsWarps;
inline constexpr int kChoicesAtOnce = 4;

struct ExpertToken {
  int token;
  bool valid;
};
MERISTEM_DEVICE ExpertToken expert_token(const ExpertShape& shape) {
  const int token = device::block_index() * kRowsWarps + device::warp_index();
  return {token, token < shape.tokens};
}

// Chunk `chunk` of a row of `width` elements.
MERISTEM_DEVICE std::int64_t chunk_at(std::int64_t row, int chunk, int width) { return row * width + 8 * chunk; }

// The choices first to first + 3 of a token, as far as it has them: rows of -1 are not there.
struct ChoiceBatch {
  Registers<int, kChoicesAtOnce> row;
  Registers<float, kChoicesAtOnce> weight;
};
MERISTEM_DEVICE void load_choices(ChoiceBatch& to, const ExpertRowsParameters& p, int token, int first) {
  const std::int64_t choices = static_cast<std::int64_t>(token) * p.shape.choices;
  MERISTEM_UNROLL
  for (int u = 0; u < kChoicesAtOnce; ++u) {
    const bool there = first + u < p.shape.choices;
    to.row[u] = there ? device::ldg<std::int32_t>(device::gptr<const std::int32_t>(p.place) + (choices + first + u)) : -1;
    to.weight[u] = there && p.weights != nullptr ? device::ldg<float>(device::gptr<const float>(p.weights) + (choices + first + u)) : 1;
  }
}

}  // namespace meristem::kernels::detail
