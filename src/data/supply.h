// What a run takes from each source, counted before it begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace meristem {

struct SourceUse {
  std::string name;
  std::int64_t sequences = 0, tokens = 0;
  double epochs = 0;
};

// Use of each source over `steps` updates. phases: from_step.value in steps. InputError where a source would be read more often than its
// max_repeats allows: names source, update and epochs.
std::vector<SourceUse> check_supply(const DataConfig& data, const std::vector<PhaseConfig>& phases, std::int64_t sequences_per_step, std::int64_t steps);

}  // namespace meristem
