// What the RMSNorm kernels are launched with.
#pragma once

#include "meristem_kernels/rms_norm.h"

namespace meristem::kernels::detail {

template <class X>
struct RmsNormForward {
  std::int64_t rows;
  int width;
  bool vectorised;  // whole rows of 16-byte accesses
  float eps;
  const X *x, *update;
  const float* gain;
  X *h, *y;
  float* rstd;
};

template <class X>
struct RmsNormBackward {
  std::int64_t rows;
  int width;
  bool vectorised;
  const X *dy, *h, *dh;
  const float *gain, *rstd;
  X* dx;
  float *d_gain, *partials;
};

// The instantiations of the .cu files.
template <class X>
void launch_rms_norm_forward(const RmsNormForward<X>& p, Stream stream);
template <class X>
void launch_rms_norm_backward(const RmsNormBackward<X>& p, Stream stream);

}  // namespace meristem::kernels::detail
