// AdamW (Loshchilov & Hutter, 2019) over ranges of flat buffers, and the norm of a flat gradient.
//   g' = g * grad_scale;  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2
//   p = p (1 - lr wd) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

struct AdamwSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
};

// Parameters that share step count and decay, side by side in each buffer: from element `grad` of grad and half, `master` of master, and
// `moments` of exp_avg and exp_avg_sq on.
struct AdamwRange {
  std::int64_t grad = 0, master = 0, moments = 0;
  std::int64_t count = 0;  // elements
  double weight_decay = 0;
};

// All flat, float32, on one device; half: bfloat16 copy of the new weights, or undefined. counts_R: int64, the updates that each range has
// had.
struct AdamwTensors {
  at::Tensor master, grad, exp_avg, exp_avg_sq, half, counts_R;
};

// One update of all ranges, which must not overlap; t is the range's count after it. lr and grad_scale: float32 scalars on the same device.
// An update whose grad_scale is not finite is refused: no weight, no moment and no count changes. `library` may write to grad. `reference`
// waits for the device; the others do not. `fused` on a GPU: one launch for 64 ranges, and a few for the counts and bias corrections.
void adamw_step(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                const AdamwSettings& settings, Path path);

// sqrt(sum g^2) as a float32 scalar on the gradient's device; sums in double on the fused path. Not finite where an element is not.
at::Tensor gradient_norm(const at::Tensor& flat_grad, Path path);

// sum += x for a float32 sum and a bfloat16 or float32 x of the same shape.
void accumulate_gradient(at::Tensor& sum, const at::Tensor& x);

}  // namespace meristem::ops
