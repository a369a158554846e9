// The two passes of our own attention kernels on a device, over a packed projection; also for operators that join more to its softmax.
#pragma once

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

}  // namespace meristem::ops
