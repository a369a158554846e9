// The section `variants` of a config: several runs that differ in some keys.
#pragma once

#include <string>
#include <vector>

#include "config/yaml_tree.h"

namespace meristem {

// Takes `variants` out of the tree; null where there is none.
YamlNode take_variants(YamlNode& root);

// Lays a variant's keys over the tree: a plain key merges as `include` does, a path replaces as on the command line.
void apply_variant(YamlNode& root, const std::string& name, const YamlNode& variant);

// The names of `variants` that the overrides choose: all without variant=NAME, which is taken out of them.
std::vector<std::string> chosen_variants(const YamlNode& variants, std::vector<std::string>& overrides);

}  // namespace meristem
