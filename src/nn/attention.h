// Sequence attention: norm, packed QKV projection, RoPE, causal grouped-query attention, output projection; optional QK norm (RMSNorm of
// queries and keys before RoPE, of each head or of all heads together), biases of the QKV projection, a window, and a cap on
// the scores.
// Two kinds of depth attention live in here, without parameters of their own; both read the keys and values that earlier calls of the same
// forward pass left in DepthMemory, after RoPE, so that query and depth key of one token stand at one position:
//   joint   one softmax over the sequence's keys and the token's own of earlier calls (MoDA, Zhu et al., 2026)
//   values  before sequence attention the query attends over the token's keys of all calls so far, this one's included, and the mixed value
//           takes the place of the value (Depth-Attention, Zeng et al., 2026): it is read, cached, and mixed again by later calls. Query
//           heads that share a key head attend with their mean.
#pragma once

#include "config/run_config.h"
#include "nn/layers.h"
#include "nn/mixer.h"
#include "ops/attention.h"

namespace meristem::nn {

class AttentionImpl : public Mixer {
 public:
  AttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std = kInitStd);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(const CallPlace& place) const override;
  const InputNormImpl* input_norm() const override { return norm_->norms() ? norm_.get() : nullptr; }
  bool decodes_together() const override { return true; }
  bool runs_on_strands() const override { return true; }
  ModelPart part() const override { return {"", "Attention", ""}; }

 private:
  enum class Depth { kNone, kJoint, kValues };

  ops::HeadShape shape_of(std::int64_t block) const;                           // with the block's window
  at::Tensor rotate(const at::Tensor& qkv_NC, const CallContext& call) const;  // RoPE, behind QK norm where there is one
  at::Tensor mixed_values(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, CallContext& call) const;
  at::Tensor attend(const at::Tensor& qkv_NC, CallContext& call) const;
  at::Tensor attend_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, CallContext& call) const;

  AttentionConfig config_;
  ops::HeadShape shape_;          // its window is that of the blocks that have one
  ops::HeadShape depth_shape_{};  // of kind values
  Depth depth_ = Depth::kNone;
  std::int64_t width_;
  ops::Paths paths_;
  InputNorm norm_{nullptr};
  Linear qkv_{nullptr}, output_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};  // empty without qk_norm
};
TORCH_MODULE(Attention);

}  // namespace meristem::nn
