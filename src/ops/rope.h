// Rotary position embedding (Su et al., 2021) in the half-split layout of Llama checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// cos and sin of position x frequency: [positions, head_dim/2], float32 (float64 on request).
struct RopeTable {
  at::Tensor cos, sin;
};
RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::TensorOptions& options);

// x_NC: [N, C], whose first heads*head_dim columns are heads; rotates those and returns the whole [N, C]. positions_N: int32.
// The fused path rotates in place: x_NC must not be needed elsewhere. fp32 inside. Differentiable in x_NC.
at::Tensor rope(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, Path path);

}  // namespace meristem::ops
