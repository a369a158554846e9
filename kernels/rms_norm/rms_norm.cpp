// Checks what a caller gives and picks the element type.
#include <stdexcept>
#include <string>

#include "rms_norm/parameters.h"
#include "rows/dispatch.h"

namespace meristem::kernels {
namespace {

void check_rms_norm(const RmsNormShape& shape) {
  if (shape.rows < 0 || shape.width < 1 || shape.width > kRmsNormMaxWidth) {
    throw std::invalid_argument("rms_norm: " + std::to_string(shape.rows) + " rows of width " + std::to_string(shape.width) +
                                "; allowed: widths from 1 to " + std::to_string(kRmsNormMaxWidth));
  }
}

}  // namespace

void rms_norm_forward(const RmsNormShape& shape, const void* x, const void* update, const float* gain, float eps, void* h, void* y,
                      float* rstd, Stream stream) {
  check_rms_norm(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.width, x, update, gain, h, y);
    detail::launch_rms_norm_forward<X>(
        {shape.rows, shape.width, aligned, eps, detail::as<X>(x), detail::as<X>(update), gain, detail::as<X>(h), detail::as<X>(y), rstd},
        stream);
  });
}

void rms_norm_backward(const RmsNormShape& shape, const void* dy, const void* h, const float* gain, const float* rstd, const void* dh,
                       void* dx, float* d_gain, float* partials, Stream stream) {
  check_rms_norm(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.width, dy, h, gain, dh, dx);
    detail::launch_rms_norm_backward<X>({shape.rows, shape.width, aligned, detail::as<X>(dy), detail::as<X>(h), detail::as<X>(dh), gain,
                                         rstd, detail::as<X>(dx), d_gain, partials},
                                        stream);
  });
}

}  // namespace meristem::kernels
