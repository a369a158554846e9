#include "config/load.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "config/validate.h"
#include "config/yaml_reader.h"
#include "config/yaml_tree.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxIncludes = 8;

YamlNode read_tree(const fs::path& file, std::vector<fs::path>& open);

// Merges the files that `root` includes under it and takes the key out.
void resolve_includes(YamlNode& root, const fs::path& file, std::vector<fs::path>& open) {
  const auto found = std::find_if(root.members.begin(), root.members.end(), [](const auto& member) { return member.first == "include"; });
  if (found == root.members.end()) return;
  const YamlNode include = found->second;
  root.members.erase(found);
  const auto merge = [&](const YamlNode& name) {
    if (name.kind != YamlNode::Kind::kScalar) throw InputError(fmt::format("{}: include: found {}; allowed: a file name, or a list of them", name.origin, name.describe()));
    const fs::path path = file.parent_path() / name.text;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) throw InputError(fmt::format("{}: include: {} does not exist", name.origin, in_quotes(path.string())));
    merge_under(root, read_tree(path, open));
  };
  if (include.kind == YamlNode::Kind::kSequence) {
    // Later files lie over earlier ones.
    for (auto item = include.items.rbegin(); item != include.items.rend(); ++item) merge(*item);
  } else {
    merge(include);
  }
}

YamlNode read_tree(const fs::path& file, std::vector<fs::path>& open) {
  std::error_code ignored;
  const fs::path real = fs::weakly_canonical(file, ignored);
  if (std::find(open.begin(), open.end(), real) != open.end()) throw InputError(fmt::format("{}: include: includes itself", file.string()));
  if (open.size() >= kMaxIncludes) throw InputError(fmt::format("{}: include: nested deeper than {} files", file.string(), kMaxIncludes));
  open.push_back(real);
  YamlNode root = parse_yaml(read_file(file, 1 << 20), file.string());
  if (root.kind != YamlNode::Kind::kMap) throw InputError(fmt::format("{}: the config: found {}; allowed: a map of keys", root.origin, root.describe()));
  resolve_includes(root, file, open);
  open.pop_back();
  return root;
}

// "phases[0].name" or "phases.0.name" -> phases, 0, name
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

void apply_override(YamlNode& root, const std::string& argument) {
  const auto equals = argument.find('=');
  const std::string origin = "argument " + in_quotes(argument);
  if (equals == std::string::npos || equals == 0) throw InputError(origin + ": is no override; allowed: key.path=value");
  YamlNode* node = &root;
  for (const std::string& part : split_path(argument.substr(0, equals))) {
    if (part.empty()) throw InputError(origin + ": has an empty key");
    if (node->kind == YamlNode::Kind::kSequence) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
      if (error != std::errc() || end != part.data() + part.size() || index >= node->items.size()) {
        throw InputError(fmt::format("{}: {}: found {}; allowed: an index below {}", origin, argument.substr(0, equals), in_quotes(part), node->items.size()));
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
  YamlNode value = parse_yaml("value: " + argument.substr(equals + 1), origin);
  const auto set_origin = [&](auto&& self, YamlNode& n) -> void {
    n.origin = origin;
    for (YamlNode& item : n.items) self(self, item);
    for (auto& member : n.members) self(self, member.second);
  };
  set_origin(set_origin, value);
  if (value.members.size() != 1) throw InputError(origin + ": the value is not one YAML value");
  *node = std::move(value.members.front().second);
}

// "file:line: " for the key path that a message begins with, or for its nearest section.
std::string with_origin(const std::string& message, const Origins& origins, const std::string& file) {
  std::string path = message.substr(0, message.find(':'));
  while (!path.empty()) {
    if (const auto found = origins.find(path); found != origins.end()) return found->second + ": " + printable(message, 2000);
    const auto cut = path.find_last_of(".[");
    if (cut == std::string::npos) break;
    path.resize(cut);
  }
  return file + ": " + printable(message, 2000);
}

RunConfig config_of(const YamlNode& root, const std::string& file) {
  Origins origins;
  RunConfig config = read_config(root, origins);
  try {
    resolve_and_validate(config);
  } catch (const InputError& error) {
    throw InputError(with_origin(error.what(), origins, file));
  }
  return config;
}

}  // namespace

RunConfig load_config(const fs::path& file, const std::vector<std::string>& overrides) {
  std::vector<fs::path> open;
  YamlNode root = read_tree(file, open);
  for (const std::string& argument : overrides) apply_override(root, argument);
  return config_of(root, file.string());
}

RunConfig parse_config(const std::string& yaml, const std::string& origin) {
  const YamlNode root = parse_yaml(yaml, origin);
  if (root.kind == YamlNode::Kind::kMap && root.find("include") != nullptr) throw InputError(origin + ": include: is not allowed here");
  return config_of(root, origin);
}

}  // namespace meristem
