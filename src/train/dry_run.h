// --dry-run: what a run would do, found out by building it and doing one step; writes nothing.
#pragma once

#include "config/run_config.h"
#include "models/registry.h"

namespace meristem {

// Prints phases and growth stages with expected times and peak memory. One step is run where the plan fits in this machine's memory, else
// shapes are checked without storage, and that is said.
void dry_run(const RunConfig& config, const ModelRegistry& registry);

}  // namespace meristem
