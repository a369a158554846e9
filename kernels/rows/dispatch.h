// From what a caller gives to an instantiation: what may be asked for, which buffers are aligned, which element type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "meristem_kernels/device.h"

namespace meristem::kernels::detail {

// std::invalid_argument "KERNEL: WHAT" where it does not hold.
inline void require(bool holds, const char* kernel, const std::string& what) {
  if (!holds) throw std::invalid_argument(std::string(kernel) + ": " + what);
}

// For kernels that know no other access than one of 16 bytes.
inline void require_aligned(const void* data, const char* kernel, const std::string& name) {
  require(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, kernel, name + " is not aligned to 16 bytes");
}

template <class X>
const X* as(const void* p) {
  return static_cast<const X*>(p);
}
template <class X>
X* as(void* p) {
  return static_cast<X*>(p);
}

// Whether rows of `width` elements, one behind the other, begin on 16 bytes in every buffer; a null pointer is no obstacle.
template <class X, class... Pointers>
bool rows_aligned(std::int64_t width, Pointers... pointers) {
  return static_cast<std::size_t>(width) * sizeof(X) % 16 == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

// body.operator()<X>() for the element type.
template <class Body>
void with_element(Element element, const Body& body) {
  element == Element::kBf16 ? body.template operator()<std::uint16_t>() : body.template operator()<float>();
}

}  // namespace meristem::kernels::detail
