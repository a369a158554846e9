// SwiGLU and GeGLU (Shazeer, 2020) on a packed projection: y = silu(gate) * up, y = gelu(gate) * up.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// gate_up: [N, 2 inner], the gate's columns first; returns [N, inner] of the same type. fp32 inside. Differentiable; only gate_up is kept
// for backward, with s = sigmoid(gate):
//   d_up = dy gate s,  d_gate = dy up (s + gate s (1 - s))
at::Tensor swiglu(const at::Tensor& gate_up, Path path);

// As the reference of swiglu, with GELU in its tanh form: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
at::Tensor geglu(const at::Tensor& gate_up);

}  // namespace meristem::ops
