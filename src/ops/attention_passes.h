// What stands behind ops/attention.h on a device: the two passes of our own kernels, over a packed projection, also for operators that join
// more to its softmax; and LibTorch's flash attention, as one call over all documents.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"
#include "ops/paths.h"

namespace meristem::ops {

// qkv_NC, out and d_out: rows as `rows` makes them. documents: with offsets. log_sum_exp_HN: float32, on a CPU by any strides. The backward
// pass is deterministic; in CUDA where LibTorch is asked for deterministic algorithms, and else by chance in the last bits of dq.
struct AttentionPasses {
  // Throws where the kernels take no such tensor.
  void (*check)(const at::Tensor& qkv_NC, const HeadShape& shape);
  // Rows that the kernels read in place; a copy where they cannot.
  at::Tensor (*rows)(const at::Tensor& x);
  // Writes out [N, H*K] and log_sum_exp.
  void (*forward)(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                  const at::Tensor& log_sum_exp_HN);
  // Writes d_qkv. out and log_sum_exp may be those of a softmax over more than the sequence.
  void (*backward)(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                   const at::Tensor& d_out, const at::Tensor& log_sum_exp_HN, const at::Tensor& d_qkv_NC);
};

// ops/cpu: float32 and bfloat16, any even head dim; documents may share beginnings.
extern const AttentionPasses kAttentionPassesCpu;
// kernels/attention: bfloat16, head dims 64 and 128.
extern const AttentionPasses kAttentionPassesCuda;

// cached_attention on the CPU.
void cached_attention_cpu(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const HeadShape& shape, const Documents& documents,
                          const at::Tensor& out);

// causal_attention by these passes, keeping qkv, the result and its log-sum-exp for backward.
at::Tensor fused_attention(const AttentionPasses& passes, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents);

// A call of LibTorch's flash attention, causal: rows of several documents, of which query document d sees key document d, ends aligned. H
// query heads, G key heads (divides H), K head dim.
struct FlashCall {
  at::Tensor q_NHK, k_MGK, v_MGK;      // by any strides of N and H
  at::Tensor q_offsets, k_offsets;     // int32 [documents + 1 or more]: starts, then the number of rows
  std::int64_t longest_q, longest_k;   // no document is longer
  std::optional<std::int64_t> window;  // keys before itself that a query sees
};
struct FlashResult {
  at::Tensor out_NHK, log_sum_exp_HN;
};
using Flash = FlashResult (*)(const FlashCall&);

// LibTorch's, with its backward: on CUDA from sm_80 on. The host waits for nothing, and a graph may capture it.
FlashResult flash_of_library(const FlashCall& call);
// Whether it takes such numbers and heads.
bool flash_takes(at::ScalarType type, const HeadShape& shape);

// causal_attention by one such call.
at::Tensor flash_attention(Flash flash, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents);
// cached_attention by one such call.
at::Tensor flash_cached_attention(Flash flash, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape);

}  // namespace meristem::ops
