#include "experts/combine.h"

namespace meristem::kernels::detail {

void launch_expert_combine(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_combine", expert_combine_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0, stream, p);
}

}  // namespace meristem::kernels::detail
