// RMSNorm (Zhang & Sennrich, 2019), alone or behind the addition to the residual stream, forward and backward.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

inline constexpr int kRmsNormMaxWidth = 8192;
inline constexpr int kRmsNormPartials = 264;  // rows of partial sums of the gain's gradient, at most: two blocks for each SM of an H100

inline constexpr std::int64_t kRmsNormScratch = std::int64_t{kRmsNormPartials} * kRmsNormMaxWidth;

// rows x width, all contiguous, of type `element`; the gain is fp32. Any width from 1 to kRmsNormMaxWidth; those that are a multiple of 16
// bytes, in buffers aligned to 16, go 16 bytes at a time, others element by element.
struct RmsNormShape {
  std::int64_t rows;
  int width;
  Element element;
};

// h = x + update, rounded to the element type, where update is not null, else x
// rstd = 1 / sqrt(mean(h^2) + eps), y = h rstd gain
// h is written where update is given (it may be x or update); rstd: [rows] fp32, for the backward pass. std::invalid_argument for a width
// that is not allowed.
void rms_norm_forward(const RmsNormShape& shape, const void* x, const void* update, const float* gain, float eps, void* h, void* y,
                      float* rstd, Stream stream);

// From dy and, where h itself is used further on, its gradient dh (else null):
//   dx = dh + rstd (gain dy - h rstd^2 mean(gain dy h))             the gradient of x, and of update
//   d_gain = sum over the rows of dy h rstd                         [width] fp32, overwritten
// h: the normalised input (x without an update). dx may be dy or dh. partials: scratch of kRmsNormScratch floats. Sums have one order
// for a shape and a number of multiprocessors: equal bits on every run. Two launches.
void rms_norm_backward(const RmsNormShape& shape, const void* dy, const void* h, const float* gain, const float* rstd, const void* dh,
                       void* dx, float* d_gain, float* partials, Stream stream);

}  // namespace meristem::kernels
