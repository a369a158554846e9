// Starts a kernel whose one argument is a struct of parameters.
#pragma once

#include <cuda_runtime.h>

#include "device/launch.h"

namespace meristem::kernels::device {

template <class Parameters>
void launch(const char* name, void (*kernel)(Parameters), std::int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
            const Parameters& parameters) {
  if (blocks == 0) return;
  detail::check_grid(name, blocks);
  if (shared_bytes > 48 * 1024) {  // above what every device grants unasked
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    detail::check_launch(name);
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(parameters);
  detail::check_launch(name);
}

}  // namespace meristem::kernels::device
