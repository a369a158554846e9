#include "config/key_path.h"

#include <charconv>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {

std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> parts(1);
  for (const char c : path) {
    if (c == '.' || c == '[') {
      parts.emplace_back();
    } else if (c != ']') {
      parts.back() += c;
    }
  }
  return parts;
}

YamlNode& node_at(YamlNode& root, const std::string& path, const std::string& origin) {
  YamlNode* node = &root;
  for (const std::string& part : split_path(path)) {
    if (part.empty()) throw InputError(origin + ": has an empty key");
    if (node->kind == YamlNode::Kind::kSequence) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
      if (error != std::errc() || end != part.data() + part.size() || index >= node->items.size()) {
        throw InputError(
            fmt::format("{}: {}: found {}; allowed: an index below {}", origin, printable(path, 200), in_quotes(part), node->items.size()));
      }
      node = &node->items[index];
      continue;
    }
    if (node->kind != YamlNode::Kind::kMap) {  // a null or a value that the override replaces by a section
      *node = YamlNode{};
      node->kind = YamlNode::Kind::kMap;
      node->origin = origin;
    }
    node = &node->member(part);
  }
  return *node;
}

void set_origin(YamlNode& node, const std::string& origin) {
  node.origin = origin;
  for (YamlNode& item : node.items) set_origin(item, origin);
  for (auto& member : node.members) set_origin(member.second, origin);
}

void apply_override(YamlNode& root, const std::string& argument) {
  const auto equals = argument.find('=');
  const std::string origin = "argument " + in_quotes(argument);
  if (equals == std::string::npos || equals == 0) throw InputError(origin + ": is no override; allowed: key.path=value");
  YamlNode& node = node_at(root, argument.substr(0, equals), origin);
  YamlNode value = parse_yaml("value: " + argument.substr(equals + 1), origin);
  set_origin(value, origin);
  if (value.members.size() != 1) throw InputError(origin + ": the value is not one YAML value");
  node = std::move(value.members.front().second);
}

}  // namespace meristem
