// The CUDA side of ops in a build that does not link CUDA.
#include "core/errors.h"
#include "ops/cuda_adamw.h"
#include "ops/cuda_stream.h"
#include "ops/proven.h"

namespace meristem::ops {

bool cuda_kernel_linked(std::string_view) { return false; }

kernels::Stream current_stream() { return nullptr; }

void adamw_fused_cuda(const AdamwSegment&, const at::Tensor&, const at::Tensor&, const AdamwSettings&, double, double) {
  throw InputError("kernels.adamw: fused needs a build with CUDA (cmake --preset cuda)");
}

}  // namespace meristem::ops
