// The dense kernels' problems on the CPU layer.
#pragma once

#include "device/layer.h"

namespace meristem::test {

struct CpuMemory {
  template <class T>
  using Array = kernels::device::host::Array<T>;
  static constexpr bool kOnGpu = false;
  static void finish() {}
};

}  // namespace meristem::test
