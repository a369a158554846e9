// What the depth attention kernels are launched with.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "meristem_kernels/depth_attention.h"

namespace meristem::kernels::detail {

struct DepthEntries {
  DepthInput keys[kDepthEntries], values[kDepthEntries];
};

// How many lanes share a row of one key head, 16 bytes each, and how many times, each for a part of the query heads; powers of two.
struct DepthLanes {
  int lanes, parts;
};

struct DepthForwardParameters {
  DepthAttentionShape shape;
  DepthLanes split;
  bool join;  // out and log_sum_exp hold a softmax that the entries join
  DepthInput q;
  DepthOutput out;
  DepthLogSumExp log_sum_exp;
  DepthEntries entries;
};

struct DepthBackwardParameters {
  DepthAttentionShape shape;
  DepthLanes split;
  bool add;  // to dq
  DepthInput q, out, d_out;
  DepthLogSumExp log_sum_exp;
  DepthOutput dq;
  DepthEntries entries;
  DepthEntryGradient d_keys[kDepthEntries], d_values[kDepthEntries];
};
// What a kernel's arguments may take from compute capability 7.0 on.
static_assert(sizeof(DepthBackwardParameters) <= 32764);

inline constexpr int kDepthWarps = 4, kDepthThreads = 32 * kDepthWarps;

inline std::int64_t depth_blocks(const DepthAttentionShape& shape, const DepthLanes& split) {
  const int rows = kDepthThreads / (split.lanes * split.parts);  // of one key head, that a block has
  return (static_cast<std::int64_t>(shape.tokens) * shape.kv_heads + rows - 1) / rows;
}

}  // namespace meristem::kernels::detail
