// Rows of fp32 or bf16 (16-bit words) in pieces that one access moves, as floats.
#pragma once

#include <cstdint>
#include <type_traits>

#include "device/layer.h"

namespace meristem::kernels::detail {

using Bf16 = std::uint16_t;

// Elements of a 16-byte access.
template <class X>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(X));

template <class X, int V>
using Access = std::conditional_t<V == 1, X, device::Vec4>;

// V floats as one access of X, rounded to nearest even; value(j) is the j-th. V is kVector<X>, or 1 where rows are not aligned to 16 bytes.
template <class X, int V, class Value>
MERISTEM_DEVICE Access<X, V> packed(const Value& value) {
  static_assert(V == 1 || V == kVector<X>);
  if constexpr (V == 1 && sizeof(X) == 4) {
    return value(0);
  } else if constexpr (V == 1) {
    return static_cast<X>(device::pack_bf16(value(0), 0.0f));
  } else if constexpr (sizeof(X) == 4) {
    return {{device::as_word(value(0)), device::as_word(value(1)), device::as_word(value(2)), device::as_word(value(3))}};
  } else {
    return {{device::pack_bf16(value(0), value(1)), device::pack_bf16(value(2), value(3)), device::pack_bf16(value(4), value(5)),
             device::pack_bf16(value(6), value(7))}};
  }
}

// N elements that a thread holds as they lie in memory, in accesses of V elements: element i belongs to access i / V.
template <class X, int V, int N>
struct Held {
  static_assert(N % V == 0);
  static constexpr int kAccesses = N / V;
  device::Registers<Access<X, V>, kAccesses> raw;

  MERISTEM_DEVICE float operator[](int i) const {
    const Access<X, V>& access = raw[i / V];
    if constexpr (V == 1 && sizeof(X) == 4) {
      return access;
    } else if constexpr (V == 1) {
      return device::low_bf16(access);
    } else if constexpr (sizeof(X) == 4) {
      return device::as_float(access.x[i % V]);
    } else {
      const std::uint32_t word = access.x[i % V / 2];
      return i % 2 == 0 ? device::low_bf16(word) : device::high_bf16(word);
    }
  }
};

// V neighbouring floats, whatever the type of the row beside which they lie.
template <int V>
using Floats = Held<float, V == 1 ? 1 : 4, V>;
template <int V>
MERISTEM_DEVICE void load_floats(Floats<V>& to, device::gptr<const float> from) {
  constexpr int kEach = V == 1 ? 1 : 4;
  MERISTEM_UNROLL
  for (int i = 0; i < Floats<V>::kAccesses; ++i) to.raw[i] = device::ldg<Access<float, kEach>>(from + i * kEach);
}

// exp and the quotient, as exact as X can show.
template <class X>
MERISTEM_DEVICE float exp_for(float x) {
  if constexpr (sizeof(X) == 4) {
    return device::exp_accurate(x);
  } else {
    return device::exp2_fast(x * 1.4426950408889634f);
  }
}
template <class X>
MERISTEM_DEVICE float divide_for(float a, float b) {
  if constexpr (sizeof(X) == 4) {
    return a / b;
  } else {
    return device::divide_fast(a, b);
  }
}

}  // namespace meristem::kernels::detail
