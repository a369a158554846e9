#include "config/variant_keys.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/key_path.h"
#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr const char* kChoice = "variant=";

}  // namespace

YamlNode take_variants(YamlNode& root) {
  const auto found = std::find_if(root.members.begin(), root.members.end(), [](const auto& member) { return member.first == "variants"; });
  if (found == root.members.end()) return {};
  YamlNode variants = std::move(found->second);
  root.members.erase(found);
  if (variants.kind != YamlNode::Kind::kMap || variants.members.empty()) {
    throw InputError(fmt::format("{}: variants: found {}; allowed: a map of variants by name", variants.origin,
                                 variants.kind == YamlNode::Kind::kMap ? "an empty map" : variants.describe()));
  }
  for (const auto& [name, node] : variants.members) {
    const bool plain = !name.empty() && name.size() <= 50 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
    });
    if (!plain)
      throw InputError(fmt::format("{}: variants: found the name {}; allowed: letters, digits, - _ .", node.origin, in_quotes(name)));
  }
  return variants;
}

void apply_variant(YamlNode& root, const std::string& name, const YamlNode& variant) {
  const std::string key_of_it = "variants." + name;
  if (variant.kind == YamlNode::Kind::kNull) return;
  if (variant.kind != YamlNode::Kind::kMap) {
    throw InputError(fmt::format("{}: {}: found {}; allowed: a map of keys and values", variant.origin, key_of_it, variant.describe()));
  }
  for (const auto& [path, value] : variant.members) {
    const bool names_run = path == "run.name" || (path == "run" && value.find("name") != nullptr);
    if (names_run) throw InputError(fmt::format("{}: {}.run.name: a variant's run is called NAME-{}", value.origin, key_of_it, name));
    const auto parts = split_path(path);
    if (std::find(parts.begin(), parts.end(), "") != parts.end()) {
      throw InputError(fmt::format("{}: {}: found the key {}; allowed: a key path", value.origin, key_of_it, in_quotes(path)));
    }
    YamlNode& node = node_at(root, path, value.origin);
    YamlNode laid = value;
    if (parts.size() == 1) merge_under(laid, node);
    node = std::move(laid);
  }
}

std::vector<std::string> chosen_variants(const YamlNode& variants, std::vector<std::string>& overrides) {
  std::vector<std::string> names;
  for (const auto& member : variants.members) names.push_back(member.first);
  const auto choice = std::find_if(overrides.begin(), overrides.end(), [](const std::string& text) { return text.rfind(kChoice, 0) == 0; });
  if (names.empty() || choice == overrides.end()) return names;
  const std::string name = choice->substr(std::string(kChoice).size());
  if (variants.find(name) == nullptr) {
    throw InputError(fmt::format("argument {}: no such variant; allowed: {}", in_quotes(*choice), fmt::join(names, ", ")));
  }
  overrides.erase(choice);
  return {name};
}

}  // namespace meristem
