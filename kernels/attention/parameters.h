// What the attention kernels are launched with.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "meristem_kernels/attention.h"

namespace meristem::kernels::detail {

struct ForwardParameters {
  AttentionShape shape;
  AttentionInput q, k, v;
  AttentionOutput out;
  float* log_sum_exp;
};

struct BackwardParameters {
  AttentionShape shape;
  AttentionInput q, k, v, out, d_out;
  const float* log_sum_exp;
  float* delta;  // [H, T]: rowsum(d_out * out)
  AttentionOutput dq, dk, dv;
};

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("attention: " + what);
}

inline void check(const AttentionShape& shape) {
  require(shape.head_dim == 64 || shape.head_dim == 128, "head dim " + std::to_string(shape.head_dim) + "; allowed: 64, 128");
  require(shape.tokens >= 0 && shape.documents >= 0, "a negative count");
  require(shape.tokens == 0 || shape.documents > 0, "tokens of no document");  // offsets would hold no end
  require(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0,
          std::to_string(shape.heads) + " query heads over " + std::to_string(shape.kv_heads) + " key heads");
  require(shape.scale > 0, "the scale must be positive");
}

// A row starts on 16 bytes, so that a copy of 16 can.
template <class Matrix>
void check(const Matrix& matrix, const char* name) {
  require(reinterpret_cast<std::uintptr_t>(matrix.data) % 16 == 0, std::string(name) + " is not aligned to 16 bytes");
  require(matrix.row_stride % 8 == 0 && matrix.head_stride % 8 == 0, std::string(name) + ": a stride that is no multiple of 8");
}

// How many tiles of `rows` tokens the grid offers: enough for every way to cut `tokens` into `documents`, so that no host reads the
// offsets.
inline std::int64_t tiles_of(const AttentionShape& shape, int rows) { return shape.tokens / rows + shape.documents; }

}  // namespace meristem::kernels::detail
