// Arrays that live in registers: every index is a constant once loops are unrolled.
#pragma once

#include "device/nvcc/macros.h"

namespace meristem::kernels::device {

template <class T, int N>
struct Registers {
  T at[N];
  MERISTEM_DEVICE T& operator[](int i) { return at[i]; }
  MERISTEM_DEVICE const T& operator[](int i) const { return at[i]; }
};

}  // namespace meristem::kernels::device
