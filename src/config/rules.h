// What a single key's Rule says of a number, and the check of a whole config against every Rule.
#pragma once

#include <string>

#include "config/schema.h"

namespace meristem {

bool in_range(double value, const Rule& rule);
// "a whole number of at least 0, at most 4096"; `kind` is its first words.
std::string range_text(const Rule& rule, const char* kind);

// Values that were derived from others must keep the rules that given ones keep. InputError "key.path: comes to X; allowed: Y".
void check_rules(const RunConfig& config);

}  // namespace meristem
