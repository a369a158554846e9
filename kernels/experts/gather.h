// A token's row to each of the places of its choices: read once, written k times.
#pragma once

#include "experts/rows.h"

namespace meristem::kernels::detail {

MERISTEM_KERNEL(kRowsThreads, 4)
expert_gather_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  const device::gptr<const std::uint16_t> x(p.x);
  const device::gptr<const std::int32_t> place =
      device::gptr<const std::int32_t>(p.place) + static_cast<std::int64_t>(at.token) * p.shape.choices;
  for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
    const Vec4 values = device::ldg<Vec4>(x + chunk_at(at.token, chunk, p.shape.width));
    for (int j = 0; j < p.shape.choices; ++j) {
      device::stg(device::gptr<std::uint16_t>(p.to) + chunk_at(device::ldg<std::int32_t>(place + j), chunk, p.shape.width), values);
    }
  }
}

}  // namespace meristem::kernels::detail
