// Held-out loss of each validation source.
#pragma once

#include <functional>
#include <string>

#include "config/run_config.h"
#include "models/model.h"

namespace meristem {

// Nats per target and number of targets of each source, in config order. Deterministic: the same tokens in the same order every time.
// Ends early, without the source at hand, when stop() says so.
void validate(Model& model, const DepthPlan& plan, const RunConfig& config, at::Device device, const std::function<bool()>& stop,
              const std::function<void(const std::string& source, double loss, std::int64_t targets)>& report);

}  // namespace meristem
