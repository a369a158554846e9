#include "config/load.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/initial_model.h"
#include "config/key_path.h"
#include "config/validate.h"
#include "config/variant_keys.h"
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
    if (name.kind != YamlNode::Kind::kScalar)
      throw InputError(fmt::format("{}: include: found {}; allowed: a file name, or a list of them", name.origin, name.describe()));
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
  if (root.kind != YamlNode::Kind::kMap)
    throw InputError(fmt::format("{}: the config: found {}; allowed: a map of keys", root.origin, root.describe()));
  resolve_includes(root, file, open);
  open.pop_back();
  return root;
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

constexpr std::size_t kLongestName = 200;  // as validate allows: the config is read back from the run folder

}  // namespace

RunVariants load_variants(const fs::path& file, const std::vector<std::string>& overrides, const InitialModel& initial) {
  std::vector<fs::path> open;
  YamlNode root = read_tree(file, open);
  const YamlNode variants = take_variants(root);
  std::vector<std::string> rest = overrides;
  const std::vector<std::string> names = chosen_variants(variants, rest);
  RunVariants out;
  const auto add = [&](YamlNode tree, const std::string& suffix) {
    for (const std::string& argument : rest) apply_override(tree, argument);
    lay_initial_model_under(tree, initial);
    out.runs.push_back(config_of(tree, file.string()));
    out.name = out.runs.back().run.name;
    std::string& name = out.runs.back().run.name;
    name += suffix;
    if (name.size() > kLongestName)
      throw InputError(fmt::format("{}: run.name: {} is too long with its variant's name", file.string(), in_quotes(name)));
  };
  if (names.empty()) add(root, "");
  for (const std::string& name : names) {
    YamlNode tree = root;
    apply_variant(tree, name, *variants.find(name));
    add(std::move(tree), "-" + name);
  }
  return out;
}

RunConfig load_config(const fs::path& file, const std::vector<std::string>& overrides, const InitialModel& initial) {
  RunVariants loaded = load_variants(file, overrides, initial);
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
