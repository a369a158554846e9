// Sequence attention: pre-norm, packed QKV projection, RoPE, causal grouped-query attention, output projection; optional QK norm
// (RMSNorm of each head's query and key before RoPE).
#pragma once

#include "config/run_config.h"
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/rms_norm.h"
#include "ops/attention.h"

namespace meristem::nn {

class AttentionImpl : public Mixer {
 public:
  AttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(std::int64_t context) const override;

 private:
  at::Tensor normalize_heads(const at::Tensor& qkv_NC) const;

  ops::HeadShape shape_;
  std::int64_t width_;
  ops::Paths paths_;
  RmsNorm norm_{nullptr};
  Linear qkv_{nullptr}, output_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};  // empty without qk_norm
};
TORCH_MODULE(Attention);

}  // namespace meristem::nn
