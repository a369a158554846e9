// Rotary position embedding (Su et al., 2021) in the half-split layout of Llama checkpoints.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// cos and sin of position x frequency: [positions, head_dim/2], float32 (float64 on request).
struct RopeTable {
  at::Tensor cos, sin;
};

// Llama 3's stretching of the rotary frequencies for texts longer than `original_positions` (config.json: rope_type "llama3"). With
// s = original_positions / wavelength: frequencies of s >= high_factor stay, those of s <= low_factor are divided by `factor`, between them
// f ((1 - m) / factor + m) with m = (s - low_factor) / (high_factor - low_factor).
struct RopeScaling {
  double factor, low_factor, high_factor;
  double original_positions;
};
RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::TensorOptions& options,
                          const std::optional<RopeScaling>& scaling = {});
// Of a call that turns nothing: cos 1, sin 0.
RopeTable no_rotation(const RopeTable& like);

// x_NC: [N, C], whose first heads*head_dim columns are heads; rotates those and returns the whole [N, C]. positions_N: int32.
// The fused path rotates in place: x_NC must not be needed elsewhere. fp32 inside. Differentiable in x_NC.
at::Tensor rope(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, Path path);

// RMSNorm of the first query_heads heads and of the next key_heads before their rotation. The gains, of type float32 (float64 where x is),
// say over what: [head_dim] each head by itself, [heads*head_dim] all heads together.
struct QkNorm {
  std::int64_t query_heads, key_heads;
  at::Tensor q_gain, k_gain;
  double eps;
};

// Norms and rotates the first query_heads + key_heads heads of x_NC, returns the whole [N, C]. norm_path: of the norm, rope_path: of the
// rotation; where both are fused on a CUDA device and heads are normed by themselves they are one kernel, which leaves x_NC as it is.
// Differentiable in x_NC and the gains.
at::Tensor qk_norm_rope(const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N, const RopeTable& table, Path norm_path,
                        Path rope_path);

}  // namespace meristem::ops
