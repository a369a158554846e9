#include "config/load.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

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

// The node at a key path, created where it is missing; `origin` is who asks for it.
YamlNode& node_at(YamlNode& root, const std::string& path, const std::string& origin) {
  YamlNode* node = &root;
  for (const std::string& part : split_path(path)) {
    if (part.empty()) throw InputError(origin + ": has an empty key");
    if (node->kind == YamlNode::Kind::kSequence) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
      if (error != std::errc() || end != part.data() + part.size() || index >= node->items.size()) {
        throw InputError(fmt::format("{}: {}: found {}; allowed: an index below {}", origin, printable(path, 200), in_quotes(part), node->items.size()));
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

void apply_override(YamlNode& root, const std::string& argument) {
  const auto equals = argument.find('=');
  const std::string origin = "argument " + in_quotes(argument);
  if (equals == std::string::npos || equals == 0) throw InputError(origin + ": is no override; allowed: key.path=value");
  YamlNode& node = node_at(root, argument.substr(0, equals), origin);
  YamlNode value = parse_yaml("value: " + argument.substr(equals + 1), origin);
  const auto set_origin = [&](auto&& self, YamlNode& n) -> void {
    n.origin = origin;
    for (YamlNode& item : n.items) self(self, item);
    for (auto& member : n.members) self(self, member.second);
  };
  set_origin(set_origin, value);
  if (value.members.size() != 1) throw InputError(origin + ": the value is not one YAML value");
  node = std::move(value.members.front().second);
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

constexpr const char* kChoice = "variant=";
constexpr std::size_t kLongestName = 200;  // as validate allows: the config is read back from the run folder

// Takes `variants` out of the tree; null where there is none.
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
    if (!plain) throw InputError(fmt::format("{}: variants: found the name {}; allowed: letters, digits, - _ .", node.origin, in_quotes(name)));
  }
  return variants;
}

// Lays a variant's keys over the tree.
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

// The names of `variants` that the overrides choose: all without variant=NAME, which is taken out of them.
std::vector<std::string> chosen(const YamlNode& variants, std::vector<std::string>& overrides) {
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

}  // namespace

RunVariants load_variants(const fs::path& file, const std::vector<std::string>& overrides) {
  std::vector<fs::path> open;
  YamlNode root = read_tree(file, open);
  const YamlNode variants = take_variants(root);
  std::vector<std::string> rest = overrides;
  const std::vector<std::string> names = chosen(variants, rest);
  RunVariants out;
  const auto add = [&](YamlNode tree, const std::string& suffix) {
    for (const std::string& argument : rest) apply_override(tree, argument);
    out.runs.push_back(config_of(tree, file.string()));
    out.name = out.runs.back().run.name;
    std::string& name = out.runs.back().run.name;
    name += suffix;
    if (name.size() > kLongestName) throw InputError(fmt::format("{}: run.name: {} is too long with its variant's name", file.string(), in_quotes(name)));
  };
  if (names.empty()) add(root, "");
  for (const std::string& name : names) {
    YamlNode tree = root;
    apply_variant(tree, name, *variants.find(name));
    add(std::move(tree), "-" + name);
  }
  return out;
}

RunConfig load_config(const fs::path& file, const std::vector<std::string>& overrides) {
  RunVariants loaded = load_variants(file, overrides);
  if (loaded.runs.size() == 1) return std::move(loaded.runs.front());
  std::vector<std::string> names;
  for (const RunConfig& run : loaded.runs) names.push_back(run.run.name.substr(loaded.name.size() + 1));
  throw InputError(fmt::format("{}: variants: describes {} runs, this command takes one; choose it with variant=NAME, allowed: {}",
                               file.string(), names.size(), fmt::join(names, ", ")));
}

RunConfig parse_config(const std::string& yaml, const std::string& origin) {
  const YamlNode root = parse_yaml(yaml, origin);
  if (root.kind == YamlNode::Kind::kMap && root.find("include") != nullptr) throw InputError(origin + ": include: is not allowed here");
  return config_of(root, origin);
}

}  // namespace meristem
