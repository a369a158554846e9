// Calls one of our CPU row kernels for a tensor's element type.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/cpu/row_kernels.h"

namespace meristem::ops {

// The element types of our CPU kernels as the kernels see them.
template <class X>
X* data_of(const at::Tensor& t) {
  return static_cast<X*>(t.data_ptr());
}

// body is a generic lambda taking (const cpu::TypedKernels<X>&, X) where the second argument only names the type.
template <class Body>
void dispatch_cpu(at::ScalarType dtype, const Body& body) {
  if (dtype == at::kFloat) {
    body(cpu::row_kernels().f32, float{});
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "CPU kernels compute in float32 or bfloat16, got ", dtype);
    body(cpu::row_kernels().bf16, std::uint16_t{});
  }
}

// The type that reductions run in: double for double, else float.
inline at::ScalarType accumulate_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace meristem::ops
