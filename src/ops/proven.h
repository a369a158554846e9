// Which CUDA kernels this build holds, and which of them a GPU has run and passed (kernels/proven.json, compiled in).
#pragma once

#include <string_view>

namespace meristem::ops {

bool cuda_kernel_linked(std::string_view op);
bool kernel_proven(std::string_view op);

// The two questions as a value, so that a test can answer them otherwise.
struct CudaKernels {
  bool (*linked)(std::string_view op) = cuda_kernel_linked;
  bool (*proven)(std::string_view op) = kernel_proven;
};

}  // namespace meristem::ops
