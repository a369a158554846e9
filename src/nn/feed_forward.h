// The feed-forward mixers: dense, and expert attention.
#pragma once

#include "config/run_config.h"
#include "nn/layers.h"
#include "nn/mixer.h"

namespace meristem::nn {

// Dense: norm, packed gate and up projection, SwiGLU or GeGLU, down projection.
class FeedForwardImpl : public Mixer {
 public:
  FeedForwardImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std = kInitStd);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(const CallPlace& place) const override;
  const InputNormImpl* input_norm() const override { return norm_->norms() ? norm_.get() : nullptr; }
  bool decodes_together() const override { return true; }
  bool runs_on_strands() const override { return true; }
  ModelPart part() const override { return {"", "FeedForward", ""}; }

 private:
  std::int64_t width_, inner_;
  bool gelu_;
  ops::Path path_;
  InputNorm norm_{nullptr};
  Linear gate_up_{nullptr}, down_{nullptr};
};
TORCH_MODULE(FeedForward);

// Sinusoidal (Vaswani et al., 2017) encoding of a depth r: pairs (sin, cos) of r / 10000^(2i/size). [size], of the options' type.
at::Tensor depth_encoding(std::int64_t depth, std::int64_t size, const at::TensorOptions& options);

// Expert attention: k of E SwiGLU experts, chosen by a router whose query knows the depth.
//   q = W_r norm(u) + encoding(r);  x = q K_e^T;  the k largest of x + bias are chosen;  w = sigmoid(x) of the chosen, normalised to sum 1
//   output = sum w_e FFN_e(norm(u)), plus the shared experts, which are always on
// The router computes in fp32, and gradients reach it through sigmoid(x) alone. The bias balances the loads (Wang et al., 2024): after each
// optimizer step bias += rate * sign(mean load - load), loads counted over all tokens and all calls of the block.
class ExpertsImpl : public Mixer {
 public:
  // config.feed_forward is resolved and of kind `experts`. output_std: of the matrices that end in the residual stream.
  ExpertsImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std = kInitStd);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(const CallPlace& place) const override;
  const InputNormImpl* input_norm() const override { return norm_->norms() ? norm_.get() : nullptr; }
  void prepare(std::int64_t calls) override;
  bool decodes_together() const override { return true; }
  bool runs_on_strands() const override { return true; }
  ModelPart part() const override { return {"", "Experts", ""}; }
  std::int64_t experts() const override { return config_.count; }
  void balance(const at::Tensor& counts_E, const at::Tensor& updated) override;

 private:
  struct Choice {
    at::Tensor chosen_Nk, weights_Nk;
  };
  Choice choose(const at::Tensor& normed_ND, std::int64_t depth);
  at::Tensor encoding_of(std::int64_t depth);

  FeedForwardConfig config_;
  std::int64_t width_;
  ops::Paths paths_;
  InputNorm norm_{nullptr};
  Linear router_{nullptr};                                 // [d_r, D]
  at::Tensor router_keys_, balance_bias_;                  // [E, d_r], [E]
  at::Tensor gate_up_, down_;                              // [E, 2F, D], [E, D, F]
  at::Tensor encodings_;                                   // [depths, d_r], on the device: a captured step may not copy from the host
  std::vector<at::Tensor> outgrown_;                       // earlier encodings, which captured graphs read on
  Linear shared_gate_up_{nullptr}, shared_down_{nullptr};  // n shared experts are one of n times the inner width; empty without
};
TORCH_MODULE(Experts);

}  // namespace meristem::nn
