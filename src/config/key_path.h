// Nodes of a config's tree by their key path, as variants and the command line name them.
#pragma once

#include <string>
#include <vector>

#include "config/yaml_tree.h"

namespace meristem {

// "phases[0].name" or "phases.0.name" -> phases, 0, name
std::vector<std::string> split_path(const std::string& path);

// The node at a key path, created where it is missing; `origin` is who asks for it. InputError for an empty key or an index out of range.
YamlNode& node_at(YamlNode& root, const std::string& path, const std::string& origin);

// The node and all below it say that they come from `origin`.
void set_origin(YamlNode& node, const std::string& origin);

// "key.path=value" of the command line; the value is YAML.
void apply_override(YamlNode& root, const std::string& argument);

}  // namespace meristem
