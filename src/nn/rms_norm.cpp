#include "nn/rms_norm.h"

#include "ops/rms_norm.h"

namespace meristem::nn {

RmsNormImpl::RmsNormImpl(std::int64_t width, double eps, const Placement& placement, ops::Path path)
    : eps_(eps), compute_(placement.compute), path_(path) {
  weight_ = add_parameter("weight", {width}, Role::kNorm, 0, placement);
}

at::Tensor RmsNormImpl::forward(const at::Tensor& x) const { return ops::rms_norm(x, weight_, eps_, path_).to(compute_); }

at::Tensor RmsNormImpl::forward_sum(const at::Tensor& x, const at::Tensor& update) const {
  return ops::add_rms_norm(x, update, weight_, eps_, path_).normed.to(compute_);
}

}  // namespace meristem::nn
