// What the CUDA kernels of a model's operators cannot take, asked before a run begins.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

#include "ops/head_shape.h"

namespace meristem::ops {

// The sizes that the kernels have limits for; 0: the model has no such part.
struct ModelShapes {
  std::int64_t width = 0, head_dim = 64;
  std::optional<HeadShape> depth;  // of attention over depth, as ops/depth_attention.h takes it
  bool joint = false;              // with sequence attention, in one softmax
  std::int64_t entries = 0;        // the most that a token attends over
  std::int64_t experts = 0;
};

// Why the kernel of `op` (its key in `kernels:`) cannot run: " with head dim 96 (its kernel takes …)"; empty where it can.
std::string cuda_limit(std::string_view op, at::ScalarType compute, const ModelShapes& shapes);

}  // namespace meristem::ops
