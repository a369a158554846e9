// The gradients of a weighted sum: each row's, and each weight's, the sum of 32 lanes.
#pragma once

#include "experts/rows.h"

namespace meristem::kernels::detail {

MERISTEM_KERNEL(kRowsThreads, 4)
expert_combine_backward_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  for (int first = 0; first < p.shape.choices; first += kChoicesAtOnce) {
    ChoiceBatch batch;
    load_choices(batch, p, at.token, first);
    Registers<float, kChoicesAtOnce> dots;
    MERISTEM_UNROLL
    for (int u = 0; u < kChoicesAtOnce; ++u) dots[u] = 0;
    for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
      const Vec4 dy = device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.x) + chunk_at(at.token, chunk, p.shape.width));
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] < 0) continue;
        const std::int64_t place = chunk_at(batch.row[u], chunk, p.shape.width);
        dots[u] += dot_chunk(dy, device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.rows) + place));
        ChunkSum d_row;
        set_zero(d_row);
        add_scaled(d_row, batch.weight[u], dy);
        device::stg(device::gptr<std::uint16_t>(p.to) + place, scaled_chunk(d_row, 1));
      }
    }
    sum_over_lanes(dots, 1, device::kWarp);
    MERISTEM_UNROLL
    for (int u = 0; u < kChoicesAtOnce; ++u) {
      if (device::lane_index() == u && batch.row[u] >= 0) {
        device::stg(device::gptr<float>(p.d_weights) + (static_cast<std::int64_t>(at.token) * p.shape.choices + first + u), dots[u]);
      }
    }
  }
}

}  // namespace meristem::kernels::detail
