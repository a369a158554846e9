// What changes the depth of a run over time: loops, growth, plans of phases.
#pragma once

#include "config/run_config.h"

namespace meristem {

// In this order, after the schedule's and the phases' own checks: a step beyond the run is a mistake of the key that names it.
void check_loop(const RunConfig& config);
void check_growth(RunConfig& config);
void check_phase_plans(RunConfig& config);
// The plans as they will run: their lengths, and whether a truncation ever truncates.
void check_repeats(const RunConfig& config);

}  // namespace meristem
