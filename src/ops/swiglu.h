// SwiGLU (Shazeer, 2020) on a packed projection: y = silu(gate) * up.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// gate_up: [N, 2 inner], the gate's columns first; returns [N, inner] of the same type. fp32 inside. Differentiable; only gate_up is kept
// for backward, with s = sigmoid(gate):
//   d_up = dy gate s,  d_gate = dy up (s + gate s (1 - s))
at::Tensor swiglu(const at::Tensor& gate_up, Path path);

}  // namespace meristem::ops
