// Dense feed-forward: pre-norm, packed gate and up projection, SwiGLU, down projection.
#pragma once

#include "config/run_config.h"
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/rms_norm.h"

namespace meristem::nn {

class FeedForwardImpl : public Mixer {
 public:
  FeedForwardImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std = kInitStd);
  at::Tensor forward(const at::Tensor& h_ND, CallContext& call) override;
  CallCost cost(const CallPlace& place) const override;

 private:
  std::int64_t width_, inner_;
  ops::Path path_;
  RmsNorm norm_{nullptr};
  Linear gate_up_{nullptr}, down_{nullptr};
};
TORCH_MODULE(FeedForward);

}  // namespace meristem::nn
