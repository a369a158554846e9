// Checks what a caller gives and picks the element type.
#include <stdexcept>

#include "cross_entropy/parameters.h"
#include "rows/dispatch.h"

namespace meristem::kernels {

void cross_entropy(const CrossEntropyShape& shape, void* logits, const std::int32_t* targets, float* losses, bool with_gradient,
                   Stream stream) {
  if (shape.rows < 0 || shape.vocab < 1) throw std::invalid_argument("cross_entropy: a count that is not allowed");
  detail::with_element(shape.element, [&]<class X>() {
    detail::launch_cross_entropy<X>({shape.rows, shape.vocab, with_gradient, detail::as<X>(logits), targets, losses}, stream);
  });
}

}  // namespace meristem::kernels
