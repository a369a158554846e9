// Host side of every launch.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace meristem::kernels::detail {

inline void check_launch(const char* kernel) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error(std::string("kernel ") + kernel + " could not be launched: " + cudaGetErrorString(error));
  }
}

}  // namespace meristem::kernels::detail
