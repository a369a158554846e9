// Fused attention with FlashAttention's recurrence: softmax(scale q k^T) v without a [T, T] matrix in memory.
//
// Shapes: T tokens of all documents together, H query heads, G key/value heads (G divides H; query head h reads key head h / (H/G)), D head
// dim, 64 or 128. bf16 in and out, as 16-bit words; fp32 inside.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

struct AttentionShape {
  int tokens, heads, kv_heads, head_dim;
  // Documents lie one after another: document i is tokens offsets[i] to offsets[i + 1] - 1, attends to itself only, and may be empty.
  // Device memory, documents + 1 values, not decreasing, from 0 to `tokens`.
  int documents;
  const std::int32_t* offsets;
  // Query i sees keys i - window_left to i + window_right of its document; negative: no limit. Causal is {-1, 0}, full {-1, -1}.
  int window_left, window_right;
  float scale;  // positive, usually 1/sqrt(D)
};

// A matrix [T, heads * D] inside a wider one: element (t, h, d) is data[t * row_stride + h * head_stride + d]. Aligned to 16 bytes, the
// strides multiples of 8. The query part of a packed projection [T, (H + 2G) * D] is {qkv, (H + 2G) * D, D}, its keys {qkv + H * D, …}.
struct AttentionInput {
  const std::uint16_t* data;
  std::int64_t row_stride, head_stride;
};
struct AttentionOutput {
  std::uint16_t* data;
  std::int64_t row_stride, head_stride;
};

// out [T, H * D]; log_sum_exp [H, T] fp32, the natural logarithm of each row's sum of exponentials, for the backward pass. Each depends on
// the shape and the values alone: equal bits on every run. std::invalid_argument where the shape, a stride or an alignment is not allowed.
void attention_forward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionOutput out,
                       float* log_sum_exp, Stream stream);

// Gradients of q [T, H * D], k and v [T, G * D] from d_out and what the forward pass gave (out, log_sum_exp). Probabilities are computed
// again. `delta` is scratch for H * T floats, `dq_sums` for attention_sums(shape). Two variants: where dq_sums is null, each gradient
// element has one writer and a fixed order of summation: equal bits on every run, for 7 products a tile. With dq_sums blocks add dq up in
// it atomically: 5 products, and dq's last bits may differ from run to run. Three launches.
void attention_backward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionInput out,
                        AttentionInput d_out, const float* log_sum_exp, float* delta, float* dq_sums, AttentionOutput dq,
                        AttentionOutput dk, AttentionOutput dv, Stream stream);

// How many floats dq_sums takes; 0 where the current device has not the shared memory for it (163 KiB a block): then it must be null.
std::int64_t attention_sums(const AttentionShape& shape);

}  // namespace meristem::kernels
