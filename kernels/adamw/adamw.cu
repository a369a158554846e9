#include "adamw/adamw_thread.h"
#include "device/launch.h"

namespace meristem::kernels {
namespace {

__global__ void __launch_bounds__(detail::kAdamwThreads, detail::kAdamwBlocksPerSm)
    adamw_kernel(const __grid_constant__ detail::AdamwLaunch launch) {
  detail::adamw_thread(launch, static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x));
}

}  // namespace

void adamw(const AdamwBuffers& buffers, const AdamwSegment* segments, int segment_count, const AdamwConstants& constants, const float* lr,
           const float* clip_factor, Stream stream) {
  detail::AdamwLaunch launch{};
  launch.buffers = buffers;
  launch.constants = constants;
  launch.lr = lr;
  launch.clip_factor = clip_factor;
  for (int first = 0; first < segment_count;) {
    std::int32_t tiles = 0;
    first += detail::fill_adamw_launch(launch, segments, segment_count, first, tiles);
    if (tiles == 0) continue;
    adamw_kernel<<<static_cast<unsigned>(tiles), detail::kAdamwThreads, 0, stream>>>(launch);
    detail::check_launch("adamw");
  }
}

}  // namespace meristem::kernels
