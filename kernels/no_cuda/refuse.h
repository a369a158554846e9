// What every kernel's twin does in a build without CUDA.
#pragma once

#include <stdexcept>
#include <string>

namespace meristem::kernels {

[[noreturn]] inline void refuse(const char* kernel) {
  throw std::runtime_error(std::string("kernel ") + kernel + " is not in this build: configure with -DMERISTEM_CUDA=LINK");
}

}  // namespace meristem::kernels
