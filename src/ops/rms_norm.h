// RMSNorm (Zhang & Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// x: [..., width] in any float type; w: [width], float32 (float64 where x is); y: as x. fp32 inside. Differentiable in x and w.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Path path);

}  // namespace meristem::ops
