#pragma once

#include <cstdio>
#include <cstdlib>

#include "meristem_kernels/device.h"

namespace meristem::test {

// Ends the program where no GPU is: Catch2 2 cannot skip, 4 is what CTest shows as skipped.
inline void require_gpu() {
  if (kernels::available()) return;
  std::puts("skipped: no GPU that the kernels run on");
  std::exit(4);
}

}  // namespace meristem::test
