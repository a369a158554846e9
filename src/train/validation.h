// Held-out loss of each validation source.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "models/model.h"

namespace meristem {

struct ValidationLoss {
  std::string source;
  double loss = 0;  // nats per target
  std::int64_t targets = 0;
};

// Every source in config order. Deterministic: the same tokens in the same order every time. Empty where stop() ended it early.
std::vector<ValidationLoss> validate(Model& model, const DepthPlan& plan, const RunConfig& config, at::Device device,
                                     const std::function<bool()>& stop);

}  // namespace meristem
