// AdamW over flat buffers, in one pass over memory: read gradient, master, moments; write master, moments and the bf16 copy.
#pragma once

#include <cstdint>

#include "meristem_kernels/stream.h"

namespace meristem::kernels {

// Flat arrays of one layout, in device memory: element i of each belongs to parameter i.
struct AdamwBuffers {
  float* master = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  const float* grad = nullptr;
  std::uint16_t* half = nullptr;  // bf16 bits of the new weights, rounded to nearest even; null: none wanted
};

// A range of the buffers that shares step count and decay. Ranges must not overlap. Speed wants `offset` a multiple of 4 and buffers
// 16-byte aligned (half: 8-byte); anything else works, by scalar accesses.
struct AdamwSegment {
  std::int64_t offset = 0, count = 0;  // elements
  float bias_correction1 = 1;          // 1 - beta1^t
  float bias_correction2_sqrt = 1;     // sqrt(1 - beta2^t)
  float weight_decay = 0;
};

struct AdamwConstants {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
};

// For every element of every segment, in fp32:
//   g = grad * *clip_factor
//   m = beta1 m + (1 - beta1) g                        v = beta2 v + (1 - beta2) g^2
//   p = p - *lr weight_decay p                         p = p - *lr (m / bias_correction1) / (sqrt(v) / bias_correction2_sqrt + eps)
// Where *clip_factor is infinite or NaN nothing is written: a step that no host watches stops itself so.
// lr and clip_factor are device scalars: nothing waits for the host to know them. `segments` is host memory, read before the call
// returns. One launch for every kAdamwSegmentsPerLaunch segments; deterministic.
inline constexpr int kAdamwSegmentsPerLaunch = 64;
void adamw(const AdamwBuffers& buffers, const AdamwSegment* segments, int segment_count, const AdamwConstants& constants, const float* lr,
           const float* clip_factor, Stream stream);

}  // namespace meristem::kernels
