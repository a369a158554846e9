#include "experts/gather.h"

namespace meristem::kernels::detail {

void launch_expert_gather(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_gather", expert_gather_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0, stream, p);
}

}  // namespace meristem::kernels::detail
