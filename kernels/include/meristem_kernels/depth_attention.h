// Attention over depth: a token's queries against entries of its own earlier calls, each of which lies in a buffer of its own. Nothing is
// masked and no token sees another's entries, so the kernels are bound by memory: every entry is read once for all query heads of its
// group, and only the log-sum-exp is kept for the backward pass.
//
// Shapes: N tokens, H query heads, G key/value heads (G divides H; query head h reads key head h / (H/G)), D head dim, M entries. bf16 in
// and out, as 16-bit words; fp32 inside. Equal bits on every run: each element has one writer, which sums in a fixed order.
#pragma once

#include <bit>
#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

// M at most: the table of the entries' addresses is an argument of the kernel.
inline constexpr int kDepthEntries = 128;

// The largest D, a multiple of 8, for a number H/G of query heads a key head.
constexpr int depth_head_dim_most(int group) { return group == 1 ? 1024 : 256; }
// The largest H/G: the lanes of a warp that a row leaves, four heads each.
constexpr int depth_group_most(int head_dim) { return 4 * 32 / (head_dim >= 256 ? 32 : static_cast<int>(std::bit_ceil(head_dim / 8u))); }

// D and H/G within the limits above, N * G at most 2^30.
struct DepthAttentionShape {
  int tokens, heads, kv_heads, head_dim, entries;
  float scale;  // positive, usually 1/sqrt(D)
};

// Rows of H * D (queries, outputs) or G * D (entries) elements: element (n, c) is data[n * row_stride + c]. Aligned to 16 bytes, the stride
// a multiple of 8.
struct DepthInput {
  const std::uint16_t* data;
  std::int64_t row_stride;
};
struct DepthOutput {
  std::uint16_t* data;
  std::int64_t row_stride;
};

// The natural logarithm of the sum of a softmax's exponentials: row (n, h) is data[n * token_stride + h * head_stride].
struct DepthLogSumExp {
  float* data;
  std::int64_t token_stride, head_stride;
};

// out[n, h] = sum_i p_i v_i[n, h/(H/G)] with p = softmax over i of scale * q[n, h] . k_i[n, h/(H/G)], over the M >= 1 entries. keys,
// values: host memory, M of each, read before the call returns. std::invalid_argument where a shape, count, stride or alignment is not
// allowed.
void depth_attention_forward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                             DepthOutput out, DepthLogSumExp log_sum_exp, Stream stream);

// The same with a softmax that another attention has begun: out and log_sum_exp are given as it left them and become those of the softmax
// over its keys and the M >= 0 entries together,
//   L' = log(exp(L) + sum_i exp(s_i)),  out' = exp(L - L') out + sum_i exp(s_i - L') v_i.
void depth_attention_join(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values, DepthOutput out,
                          DepthLogSumExp log_sum_exp, Stream stream);

// What becomes of a gradient: written, or added to what is there: in dq what another attention's backward left, in an entry's what later
// calls that read it did.
enum class DepthGradient { kWrite, kAdd };
struct DepthEntryGradient {
  DepthOutput rows;
  DepthGradient mode;
};

// Gradients of q and of every entry from d_out and what the forward pass gave; `out` and log_sum_exp are the whole softmax's:
//   p_i = exp(scale q.k_i - L)   ds_i = p_i (d_out.v_i - d_out.out)   dq = scale sum_i ds_i k_i
//   dk_i = scale sum_h ds_i q    dv_i = sum_h p_i d_out               over the heads h of the group
// d_keys, d_values: M of each, rounded to bf16 after an addition. The other attention's gradients are its own backward's, given this `out`
// and log_sum_exp: its weights and its sum of weighted gradients are then the whole softmax's.
void depth_attention_backward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                              DepthInput out, DepthInput d_out, DepthLogSumExp log_sum_exp, DepthOutput dq, DepthGradient dq_mode,
                              const DepthEntryGradient* d_keys, const DepthEntryGradient* d_values, Stream stream);

}  // namespace meristem::kernels
