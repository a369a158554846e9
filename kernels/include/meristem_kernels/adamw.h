// AdamW over flat buffers, in one pass over memory: read gradient, master, moments; write master, moments and the bf16 copy. And the sum of
// squares of a flat buffer, for the gradient's norm.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

// Flat arrays in device memory.
struct AdamwBuffers {
  float* master = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  const float* grad = nullptr;
  std::uint16_t* half = nullptr;  // bf16 bits of the new weights, rounded to nearest even; null: none wanted
};

// Parameters that share step count and decay, side by side in each buffer. They begin at element `grad` of grad and half, `master` of
// master, and `moments` of exp_avg and exp_avg_sq: a rank that keeps state for some parameters alone keeps it without gaps. Ranges must not
// overlap. Speed wants the three multiples of 4 and buffers 16-byte aligned (half: 8-byte); anything else works, by scalar accesses.
struct AdamwRange {
  std::int64_t grad = 0, master = 0, moments = 0;
  std::int64_t count = 0;  // elements
  float weight_decay = 0;
};

struct AdamwConstants {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
};

// For every element of every range, in fp32:
//   g = grad * *clip_factor
//   m = beta1 m + (1 - beta1) g                        v = beta2 v + (1 - beta2) g^2
//   p = p - *lr weight_decay p                         p = p - *lr (m / bias[0]) / (sqrt(v) / bias[1] + eps)
// Where *clip_factor is infinite or NaN nothing is written: a step that no host watches stops itself so.
// lr, clip_factor and bias_corrections are device memory: nothing waits for the host to know them. The last are two numbers for each range,
// bias[0] = 1 - beta1^t and bias[1] = sqrt(1 - beta2^t). `ranges` is host memory, read before the call returns. One launch for every
// kAdamwRangesPerLaunch ranges; deterministic.
inline constexpr int kAdamwRangesPerLaunch = 64;
void adamw(const AdamwBuffers& buffers, const AdamwRange* ranges, int range_count, const AdamwConstants& constants,
           const float* bias_corrections, const float* lr, const float* clip_factor, Stream stream);

inline constexpr int kSquaredNormPartials = 1024;

// *result = sum of values[i]^2 over count elements, summed in double in an order that depends on count alone: equal bits on any device.
// `values` (16-byte aligned), `partials` (kSquaredNormPartials doubles of scratch) and `result` are device memory. An infinity or a NaN
// among the values gives one as the result. Two launches.
void squared_norm(const float* values, std::int64_t count, double* partials, double* result, Stream stream);

}  // namespace meristem::kernels
