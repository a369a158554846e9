// Host side of every launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace meristem::kernels::detail {

inline void check_launch(const char* kernel) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error(std::string("kernel ") + kernel + " could not be launched: " + cudaGetErrorString(error));
  }
}

inline void check_grid(const char* kernel, std::int64_t blocks) {
  if (blocks > 0x7FFFFFFF) throw std::runtime_error(std::string("kernel ") + kernel + ": more than 2^31 - 1 blocks");
}

}  // namespace meristem::kernels::detail
