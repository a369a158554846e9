// Reads a RunConfig from a YAML tree by the schema's descriptions. Unknown keys, wrong types and values out of range are InputErrors
// "ORIGIN: full.key.path: found X; allowed Y (did you mean Z?)".
#pragma once

#include <map>
#include <string>

#include "config/run_config.h"
#include "config/yaml_tree.h"

namespace meristem {

// Key path -> where it was set.
using Origins = std::map<std::string, std::string>;

RunConfig read_config(const YamlNode& root, Origins& origins);

}  // namespace meristem
