// What a run says about its experts: how uneven the loads are, and how many experts a call really uses.
#pragma once

#include <map>
#include <string>

#include "nn/expert_loads.h"

namespace meristem {

struct ExpertMetrics {
  // By place in the plan ("0", "1", …): largest load / mean load, and the entropy of the choice in nats. Under "all" the calls of a block
  // count together, as they do for the balance bias: the load of the block that is worst, the mean entropy of the blocks.
  std::map<std::string, double> load, entropy;
};

// Reads the counts from the device. Empty maps where there are no experts.
ExpertMetrics expert_metrics(const nn::ExpertLoads& loads);

}  // namespace meristem
