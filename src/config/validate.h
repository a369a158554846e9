// The rules between keys, and the defaults that follow from other values.
#pragma once

#include "config/run_config.h"

namespace meristem {

// Fills what was left to be derived and checks everything that no single key can. InputError "key.path: found X; allowed Y".
void resolve_and_validate(RunConfig& config);

}  // namespace meristem
