#include "ops/cuda_stream.h"

#include <algorithm>
#include <array>

#include <c10/cuda/CUDAStream.h>

#include "ops/proven.h"

namespace meristem::ops {

bool cuda_kernel_linked(std::string_view op) {
  constexpr std::array<std::string_view, 8> kLinked{"adamw",   "attention", "cross_entropy", "depth_attention",
                                                    "experts", "rms_norm",  "rope",          "swiglu"};
  return std::find(kLinked.begin(), kLinked.end(), op) != kLinked.end() && kernels::available();
}

kernels::Stream current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace meristem::ops
