#include "experts/combine_backward.h"

namespace meristem::kernels::detail {

void launch_expert_combine_backward(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_combine_backward", expert_combine_backward_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0,
                 stream, p);
}

}  // namespace meristem::kernels::detail
