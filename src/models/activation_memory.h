// What one micro-batch holds at its peak, by walking through it as training does: forward over the calls, the head, backward.
#pragma once

#include "config/run_config.h"
#include "models/model.h"

namespace meristem {

struct ActivationMemory {
  double peak = 0;            // bytes beside weights, optimizer state and flat gradients
  double loop_gradients = 0;  // bytes: the most that gradients of blocks called more than once take while their sum is not complete
};

ActivationMemory activation_memory(const RunConfig& config, const Model& model, const DepthPlan& plan);

}  // namespace meristem
