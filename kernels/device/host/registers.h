// Register arrays: bounds-checked, and poison (0xFF, a NaN) until written.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "device/host/report.h"

namespace meristem::kernels::device {

template <class T, int N>
struct Registers {
  Registers() {
    if constexpr (std::is_arithmetic_v<T>) std::memset(at, 0xFF, sizeof at);
  }
  T& operator[](int i) { return at[check(i)]; }
  const T& operator[](int i) const { return at[check(i)]; }

 private:
  static int check(int i) {
    if (i < 0 || i >= N) {
      throw host::Report(host::Fault::kBounds, "register array of " + std::to_string(N) + ": index " + std::to_string(i));
    }
    return i;
  }
  T at[N];
};

}  // namespace meristem::kernels::device
