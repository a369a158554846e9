#include "ops/cuda_stream.h"

#include <c10/cuda/CUDAStream.h>

namespace meristem::ops {

kernels::Stream current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace meristem::ops
