// Checks what a caller gives and picks the element type.
#include <stdexcept>

#include "rows/dispatch.h"
#include "swiglu/parameters.h"

namespace meristem::kernels {
namespace {

void check_swiglu(const SwigluShape& shape) {
  if (shape.rows < 0 || shape.inner < 0) throw std::invalid_argument("swiglu: a negative count");
}

}  // namespace

void swiglu_forward(const SwigluShape& shape, const void* gate_up, void* y, Stream stream) {
  check_swiglu(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.inner, gate_up, y);
    detail::launch_swiglu_forward<X>({shape.rows, shape.inner, aligned, 0, nullptr, detail::as<X>(gate_up), detail::as<X>(y)}, stream);
  });
}

void swiglu_backward(const SwigluShape& shape, const void* dy, const void* gate_up, void* d_gate_up, Stream stream) {
  check_swiglu(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.inner, dy, gate_up, d_gate_up);
    detail::launch_swiglu_backward<X>(
        {shape.rows, shape.inner, aligned, 0, detail::as<X>(dy), detail::as<X>(gate_up), detail::as<X>(d_gate_up)}, stream);
  });
}

}  // namespace meristem::kernels
