#include "rows/row.h"

namespace meristem::kernels::detail {

inline constexpr int kColumnSumsThreads = 256, kColumnSumsWarps = kColumnSumsThreads / device::kWarp;

// A block owns 32 slots; each of its warps adds up an eighth of the rows.
MERISTEM_KERNEL(kColumnSumsThreads, 4)
column_sums_kernel(const MERISTEM_GRID_CONSTANT ColumnSums p) {
  const int lane = device::lane_index(), warp = device::warp_index(), slot = device::block_index() * device::kWarp + lane;
  const device::gptr<const float> partials(p.partials);
  float sum = 0;
  if (slot < p.slots) {
    for (int row = warp; row < p.rows; row += kColumnSumsWarps)
      sum += device::ldg<float>(partials + (static_cast<std::int64_t>(row) * p.slots + slot));
  }
  const auto place = [&](int w) { return device::shared_base() + static_cast<device::SharedAddress>((w * device::kWarp + lane) * 4); };
  device::sts(place(warp), sum);
  device::barrier();
  if (warp > 0) return;
  sum = 0;
  MERISTEM_UNROLL
  for (int w = 0; w < kColumnSumsWarps; ++w) sum += device::lds<float>(place(w));
  const int element = slot / p.threads, column = (element / p.vector * p.threads + slot % p.threads) * p.vector + element % p.vector;
  if (slot < p.slots && column < p.columns) device::stg(device::gptr<float>(p.sums) + column, sum);
}

void launch_column_sums(const ColumnSums& p, Stream stream) {
  device::launch("column_sums", column_sums_kernel, (p.slots + device::kWarp - 1) / device::kWarp, kColumnSumsThreads,
                 kColumnSumsThreads * 4, stream, p);
}

}  // namespace meristem::kernels::detail
