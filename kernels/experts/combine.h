// A token's k rows, weighted, summed in the order of its choices.
#pragma once

#include "experts/rows.h"

namespace meristem::kernels::detail {

MERISTEM_KERNEL(kRowsThreads, 4)
expert_combine_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
    ChunkSum sum;
    set_zero(sum);
    for (int first = 0; first < p.shape.choices; first += kChoicesAtOnce) {
      ChoiceBatch batch;
      load_choices(batch, p, at.token, first);
      Registers<Vec4, kChoicesAtOnce> rows;
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] >= 0) {
          rows[u] = device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.rows) + chunk_at(batch.row[u], chunk, p.shape.width));
        }
      }
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] >= 0) add_scaled(sum, batch.weight[u], rows[u]);
      }
    }
    device::stg(device::gptr<std::uint16_t>(p.to) + chunk_at(at.token, chunk, p.shape.width), scaled_chunk(sum, 1));
  }
}

}  // namespace meristem::kernels::detail
