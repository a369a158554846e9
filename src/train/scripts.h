// The Python scripts that a run calls at its end: pictures and pages. Training does not depend on them.
#pragma once

#include <string>
#include <vector>

namespace meristem {

// Runs scripts/python/NAME with the interpreter of scripts/meristem and waits. Empty, or why there is no result.
std::string run_script(const std::string& name, const std::vector<std::string>& arguments);

}  // namespace meristem
