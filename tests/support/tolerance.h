// The honest tolerance: a low-precision result may be no worse, against fp64, than a few times a plain computation in the same precision.
#pragma once

#include <torch/torch.h>

namespace meristem::test {

inline double max_error(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(torch::kDouble) - b.to(torch::kDouble)).abs().max().item<double>();
}

// max|result - exact| <= factor * max|same_precision - exact| + floor
struct ErrorBound {
  double error, allowed;
  bool holds() const { return error <= allowed; }
};
inline ErrorBound compare(const at::Tensor& result, const at::Tensor& same_precision, const at::Tensor& exact, double factor) {
  // One unit in the last place of the result's type at the result's size: where the plain computation happens to be exact.
  const double unit = (result.scalar_type() == torch::kBFloat16 ? 0x1p-8 : 0x1p-23) * exact.abs().max().item<double>();
  return {max_error(result, exact), factor * max_error(same_precision, exact) + unit};
}

}  // namespace meristem::test
