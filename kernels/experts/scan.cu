#include "experts/scan.h"

namespace meristem::kernels::detail {

void launch_expert_scan(const ExpertSortParameters& p, Stream stream) {
  device::launch("expert_scan", expert_scan_kernel, (p.experts + device::kWarp - 1) / device::kWarp, kScanThreads, kScanShared, stream, p);
}

}  // namespace meristem::kernels::detail
