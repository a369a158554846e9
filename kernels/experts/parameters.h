// What the expert kernels are launched with.
#pragma once

#include <cstdint>

#include "meristem_kernels/experts.h"

namespace meristem::kernels::detail {

inline constexpr int kExpertWarps = 4, kExpertThreads = 32 * kExpertWarps;

// A warp counts and places the choices of one tile, in order.
inline constexpr int kExpertTile = 512;

struct ExpertSortParameters {
  int choices, experts, tiles;  // M, E, ceil(M / kExpertTile)
  const std::int64_t* chosen;
  std::int32_t* tile_counts;  // [tiles, E]: how often each expert stands in a tile; then how often in the tiles before it
  std::int32_t* counts;       // [E]
  std::int32_t *place, *ends;
};

struct ExpertRowsParameters {
  ExpertShape shape;
  const std::int32_t* place;
  const float* weights;
  const std::uint16_t *x, *rows;
  std::uint16_t* to;  // what the kernel writes: rows, y or d_rows
  float* d_weights;
};

void launch_expert_count(const ExpertSortParameters& p, Stream stream);
void launch_expert_scan(const ExpertSortParameters& p, Stream stream);
void launch_expert_place(const ExpertSortParameters& p, Stream stream);
void launch_expert_gather(const ExpertRowsParameters& p, Stream stream);
void launch_expert_combine(const ExpertRowsParameters& p, Stream stream);
void launch_expert_combine_backward(const ExpertRowsParameters& p, Stream stream);

}  // namespace meristem::kernels::detail
