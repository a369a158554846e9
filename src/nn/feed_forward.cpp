#include "nn/feed_forward.h"

#include "ops/swiglu.h"

namespace meristem::nn {

FeedForwardImpl::FeedForwardImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std)
    : width_(config.width), inner_(config.feed_forward.inner), path_(paths.swiglu) {
  norm_ = register_module("norm", RmsNorm(width_, config.norm_eps, placement, paths.rms_norm));
  gate_up_ = register_module("gate_up", Linear(width_, 2 * inner_, kInitStd, placement));
  down_ = register_module("down", Linear(inner_, width_, output_std, placement));
}

at::Tensor FeedForwardImpl::forward(const at::Tensor& h_ND, CallContext&) {
  return down_->forward(ops::swiglu(gate_up_->forward(norm_->forward(h_ND)), path_));
}

CallCost FeedForwardImpl::cost(const CallPlace&) const {
  const double width = static_cast<double>(width_), inner = static_cast<double>(inner_);
  CallCost cost;
  cost.matmul_flops = 2 * width * 2 * inner + 2 * inner * width;
  cost.saved_elements = 2 * width + 3 * inner;  // residual input, its norm, gate and up, their product
  return cost;
}

}  // namespace meristem::nn
