#include "adamw/adamw.h"

namespace meristem::kernels {

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
    device::launch("adamw", detail::adamw_kernel, tiles, detail::kAdamwThreads, 0, stream, launch);
  }
}

}  // namespace meristem::kernels
