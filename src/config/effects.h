// Options that nothing would read.
#pragma once

#include "config/run_config.h"

namespace meristem {

// Refuses values that have no effect beside the others, so that nobody believes in a setting that is ignored. Takes a config whose defaults
// are resolved. InputError "key.path: has no effect with other.key: value".
void refuse_without_effect(const RunConfig& config);

}  // namespace meristem
