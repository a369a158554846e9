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

 private:
  at::Tensor weight_;
  double eps_;
  at::ScalarType compute_;
  ops::Path path_;
};
TORCH_MODULE(RmsNorm);

}  // namespace meristem::nn
