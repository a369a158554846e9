#include "experts/count.h"

namespace meristem::kernels::detail {

void launch_expert_count(const ExpertSortParameters& p, Stream stream) {
  device::launch("expert_count", expert_count_kernel, (p.tiles + kExpertWarps - 1) / kExpertWarps, kExpertThreads,
                 4 * kExpertWarps * p.experts, stream, p);
}

}  // namespace meristem::kernels::detail
