// AdamW (Loshchilov & Hutter, 2019) over one flat segment, and the norm of a flat gradient.
//   g' = g * grad_scale;  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2
//   p = p (1 - lr wd) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

struct AdamwSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
};

// All flat, same length, float32; half: bfloat16 copy of the new weights, or undefined. lr and grad_scale: float32 scalars on the same
// device, so that a captured step needs no new launch arguments. t: the update's number for this segment, from 1.
struct AdamwSegment {
  at::Tensor master, grad, exp_avg, exp_avg_sq, half;
  std::int64_t t = 1;
};
// Where grad_scale is not finite nothing changes: a step that does not wait for the device stops itself by it.
void adamw_step(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& settings, Path path);

// sqrt(sum g^2) as a float32 scalar on the gradient's device; sums in double on the fused path. Not finite where an element is not.
at::Tensor gradient_norm(const at::Tensor& flat_grad, Path path);

// sum += x for a float32 sum and a bfloat16 or float32 x of the same shape.
void accumulate_gradient(at::Tensor& sum, const at::Tensor& x);

}  // namespace meristem::ops
