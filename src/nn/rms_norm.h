// RMSNorm with its gain.
#pragma once

#include "nn/module.h"
#include "ops/paths.h"

namespace meristem::nn {

class RmsNormImpl : public Module {
 public:
  RmsNormImpl(std::int64_t width, double eps, const Placement& placement, ops::Path path);
  // x: [..., width]; the result is of type `compute` whatever the type of x.
  at::Tensor forward(const at::Tensor& x) const;
  // forward(x + update), for x and update of one type.
  at::Tensor forward_sum(const at::Tensor& x, const at::Tensor& update) const;
  const at::Tensor& weight() const { return weight_; }
  double eps() const { return eps_; }

 private:
  at::Tensor weight_;
  double eps_;
  at::ScalarType compute_;
  ops::Path path_;
};
TORCH_MODULE(RmsNorm);

}  // namespace meristem::nn
