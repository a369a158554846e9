// Depth attention as a mixer of its own (kind `separate`): the token attends over its states h_0 .. h_{r-1}, or over what each call added
// to them. q = W_q norm(u), k_i = W_k norm(h_i), v_i = W_v norm(h_i), RoPE over the depth index, output projection zero at the start
// (but not with `norm: post`, where the block norms what comes out, and these norms are none).
// Keys and values of h_i are made once, by the block of call i+1, the first to read it, and kept in DepthMemory for the later calls.
#pragma once

#include "config/run_config.h"
#include "nn/layers.h"
#include "nn/mixer.h"
#include "ops/depth_attention.h"

namespace meristem::nn {

// How ops/depth_attention.h is called for config.depth_attention, which is set: kind `separate` has heads of its own, `joint` those of
// sequence attention, `values` mixes by key head.
ops::HeadShape depth_heads(const ModelConfig& config);

class DepthAttentionImpl : public Mixer {
 public:
  // config.depth_attention is set, resolved, and of kind `separate`.
  DepthAttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(const CallPlace& place) const override;
  const InputNormImpl* input_norm() const override { return norm_->norms() ? norm_.get() : nullptr; }
  void prepare(std::int64_t calls) override;
  bool decodes_together() const override { return true; }
  bool runs_on_strands() const override { return true; }
  ModelPart part() const override { return {"", "DepthAttention", ""}; }

 private:
  void remember_newest(CallContext& call);
  // Rotates the first `heads` heads' columns of x by the angle of a depth.
  at::Tensor at_depth(const at::Tensor& x, std::int64_t depth);

  ops::HeadShape shape_;
  std::int64_t width_;
  bool of_updates_, rotates_;
  double rope_theta_;
  at::ScalarType rope_type_;
  ops::Paths paths_;
  ops::RopeTable rope_;                   // by depth index
  std::vector<ops::RopeTable> outgrown_;  // earlier tables, which captured graphs read on
  InputNorm norm_{nullptr}, key_norm_{nullptr};
  Linear query_{nullptr}, key_value_{nullptr}, output_{nullptr};
};
TORCH_MODULE(DepthAttention);

}  // namespace meristem::nn
