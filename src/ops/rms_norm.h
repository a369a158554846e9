// RMSNorm (Zhang & Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// x: [..., width] in any float type; w: [width], float32 (float64 where x is); y: as x. fp32 inside. Differentiable in x and w.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Path path);

// The residual stream's next state, x + update of one type and shape, and its norm. The fused path does both in one pass over memory, with
// the bits of the two on a CPU.
struct AddedNorm {
  at::Tensor sum, normed;
};
AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, Path path);

}  // namespace meristem::ops
