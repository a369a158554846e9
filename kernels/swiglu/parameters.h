// What the SwiGLU kernels are launched with.
#pragma once

#include "meristem_kernels/swiglu.h"

namespace meristem::kernels::detail {

template <class X>
struct SwigluParameters {
  std::int64_t rows;
  int inner;
  bool vectorised;
  int pieces;  // blocks of a row
  const X *dy, *gate_up;
  X* out;  // y or d_gate_up
};

// The instantiations of the .cu files.
template <class X>
void launch_swiglu_forward(SwigluParameters<X> p, Stream stream);
template <class X>
void launch_swiglu_backward(SwigluParameters<X> p, Stream stream);

}  // namespace meristem::kernels::detail
