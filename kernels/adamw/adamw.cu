#include "adamw/adamw.h"

namespace meristem::kernels {

void adamw(const AdamwBuffers& buffers, const AdamwRange* ranges, int range_count, const AdamwConstants& constants,
           const float* bias_corrections, const float* lr, const float* clip_factor, Stream stream) {
  detail::AdamwLaunch launch{};
  launch.buffers = buffers;
  launch.constants = constants;
  launch.lr = lr;
  launch.clip_factor = clip_factor;
  for (int first = 0; first < range_count;) {
    launch.bias_corrections = bias_corrections + 2 * first;
    std::int32_t tiles = 0;
    first += detail::fill_adamw_launch(launch, ranges, range_count, first, tiles);
    device::launch("adamw", detail::adamw_kernel, tiles, detail::kAdamwThreads, 0, stream, launch);
  }
}

}  // namespace meristem::kernels
