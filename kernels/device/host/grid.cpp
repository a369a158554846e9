#include "device/host/grid.h"

namespace meristem::kernels::device::host {

Grid& Grid::current() {
  static Grid grid;
  return grid;
}

void Grid::run(std::int64_t count, int threads, int shared, const std::function<void()>& body) {
  if (count > 0x7FFFFFFF) throw Report(Fault::kBounds, "more than 2^31 - 1 blocks");
  blocks = static_cast<int>(count);
  shared_bytes += shared;
  Block block(threads, shared, settings, traffic, work);
  for (int i = 0; i < blocks; ++i) block.run(i, body);
}

}  // namespace meristem::kernels::device::host
