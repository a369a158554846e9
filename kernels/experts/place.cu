#include "experts/place.h"

namespace meristem::kernels::detail {

void launch_expert_place(const ExpertSortParameters& p, Stream stream) {
  const int blocks = p.tiles == 0 ? 1 : (p.tiles + kExpertWarps - 1) / kExpertWarps;  // without a choice there are still ends to write
  device::launch("expert_place", expert_place_kernel, blocks, kExpertThreads, 4 * (p.experts + kExpertWarps + kExpertWarps * p.experts),
                 stream, p);
}

}  // namespace meristem::kernels::detail
