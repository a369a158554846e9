// What a run shows of its model on the way: the held-out loss of each validation source, and samples of what it writes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "distributed/ranks.h"
#include "models/model.h"
#include "run/run_folder.h"

namespace meristem {
struct ValidationLoss {
  std::string source;
  double loss = 0;  // nats per target
  std::int64_t targets = 0;
};

// Every source in config order. Deterministic: the same tokens in the same order every time. Ranks share the batches out; all of them get
// the whole result. Empty where stop() of any rank ended it early.
std::vector<ValidationLoss> validate(Model& model, const DepthPlan& plan, const RunConfig& config, at::Device device, Ranks& ranks,
                                     const std::function<bool()>& stop);

// Writes samples/step-N.json {"step", "prompt_ids", "ids"}. The prompt is the first tokens of the first validation source, or of the first
// training source where there is none.
void write_sample(Model& model, const DepthPlan& plan, const RunConfig& config, const RunFolder& folder, at::Device device,
                  std::int64_t step);

}  // namespace meristem
