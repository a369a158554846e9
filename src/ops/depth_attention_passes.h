// The passes behind attention over depth on a device, and where they put the entries' gradients: ops/depth_attention.cpp makes operators of
// them. `entries` are all keys, then all values, [N, G*K] each; a log-sum-exp is [N, H] float32, by whatever strides.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/depth_attention.h"

namespace meristem::ops {

// Gradients of one side of a call's entries: of those that calls share in their gathering place, of the others in tensors of their own.
struct EntryGradients {
  EntryGradients(DepthGradients::Side* gathered, std::size_t shared, std::size_t entries, std::int64_t rows, std::int64_t columns,
                 const at::TensorOptions& options);
  std::vector<at::Tensor> own;
  std::vector<at::Tensor*> all;  // by entry
  std::vector<bool> adds;        // whether the entry's tensor holds a sum to add to, or is to be written
};

struct DepthPasses {
  // Throws where the kernels take no such tensors.
  void (*check)(const at::Tensor& q, at::TensorList entries);
  // Rows that the kernels read in place; a copy where they cannot.
  at::Tensor (*rows)(const at::Tensor& x);
  // Joins the entries to an attention whose result `out` [N, H*K] and log-sum-exp `before` are given, undefined: to none, and writes `out`.
  // Returns the log-sum-exp of the whole.
  at::Tensor (*forward)(const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                        const at::Tensor& before);
  // The entries' part of the gradient; out and log_sum_exp are those of the whole softmax. dq is written, or added to where `adds`.
  void (*backward)(const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                   const at::Tensor& log_sum_exp, const at::Tensor& dq, bool adds, EntryGradients& d_keys, EntryGradients& d_values);
  // The sequence's part of joint attention: writes `out`, returns its log-sum-exp. Its backward is given the result and the log-sum-exp of
  // the whole softmax: its weights and its sum of weighted gradients are then the whole's, and so are the gradients of its keys and values.
  at::Tensor (*sequence_forward)(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out);
  void (*sequence_backward)(const at::Tensor& d_out, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents,
                            const at::Tensor& out, const at::Tensor& log_sum_exp, const at::Tensor& d_qkv_NC);
};

// ops/cpu: float32 and bfloat16.
extern const DepthPasses kDepthPassesCpu;
// kernels/depth_attention and kernels/attention: bfloat16, the shapes that meristem_kernels/depth_attention.h allows, at most
// kernels::kDepthEntries entries; jointly head dims 64 and 128.
extern const DepthPasses kDepthPassesCuda;

// depth_attention and joint_attention by these passes. Only the log-sum-exp is kept for backward; gradients are deterministic.
at::Tensor fused_depth_attention(const DepthPasses& passes, const at::Tensor& q, const std::vector<at::Tensor>& keys,
                                 const std::vector<at::Tensor>& values, const HeadShape& shape, const SharedEntries& shared = {});
at::Tensor fused_joint_attention(const DepthPasses& passes, const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys,
                                 const std::vector<at::Tensor>& values, const HeadShape& shape, const Documents& documents,
                                 const SharedEntries& shared = {});

}  // namespace meristem::ops
