// A linear map without bias, y = x W^T.
#pragma once

#include "nn/module.h"

namespace meristem::nn {

class LinearImpl : public Module {
 public:
  // weight: [out, in], Normal(0, init_std).
  LinearImpl(std::int64_t in, std::int64_t out, double init_std, const Placement& placement, Role role = Role::kLinear) {
    weight_ = add_parameter("weight", {out, in}, role, init_std, placement);
  }
  // x: [N, in] of the weight's type -> [N, out].
  at::Tensor forward(const at::Tensor& x) const { return at::linear(x, weight_); }
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
};
TORCH_MODULE(Linear);

}  // namespace meristem::nn
