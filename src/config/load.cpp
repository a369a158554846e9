#include "config/load.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/reader.h"
#include "config/validate.h"
#include "config/yaml.h"
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
  YamlNode root = parse_yaml(read_file(file, kMaxYamlBytes), file.string());
  if (root.kind != YamlNode::Kind::kMap)
    throw InputError(fmt::format("{}: the config: found {}; allowed: a map of keys", root.origin, root.describe()));
  resolve_includes(root, file, open);
  open.pop_back();
  return root;
}

// ---- Variants: several runs that differ in some keys.

constexpr const char* kChoice = "variant=";

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
    if (!plain)
      throw InputError(fmt::format("{}: variants: found the name {}; allowed: letters, digits, - _ .", node.origin, in_quotes(name)));
  }
  return variants;
}

// Lays a variant's keys over the tree: a plain key merges as `include` does, a path replaces as on the command line.
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

// ---- A run that begins with a checkpoint's weights has its model: what its config leaves unsaid under `model` is the checkpoint's.

bool has(const YamlNode& map, const char* key) {
  const YamlNode* node = map.find(key);
  return node != nullptr && node->kind != YamlNode::Kind::kNull;
}

// What the checkpoint says of depth, as far as it holds for this run.
void keep_depth_of_this_run(ModelConfig& model, const YamlNode& root, const YamlNode& written) {
  const YamlNode* initial = root.find("initial");
  const YamlNode* source_of = initial != nullptr ? initial->find("source_of") : nullptr;
  const std::size_t copies = source_of != nullptr ? source_of->items.size() : 0;
  if (copies > 0) {
    model.blocks = static_cast<std::int64_t>(copies);
    model.loop = {};
  } else if (has(root, "growth") && !has(written, "blocks")) {
    throw InputError(fmt::format("{}: model.blocks: is missing; a run that grows says its full depth itself", root.find("growth")->origin));
  } else if (!has(root, "growth") && (!has(written, "blocks") || written.find("blocks")->text == std::to_string(model.blocks))) {
    return;
  }
  model.depth_plan = {};
}

YamlNode tree_of(const ModelConfig& model, const std::string& origin) {
  RunConfig config;
  config.model = model;
  YamlNode tree = *parse_yaml(dump_config(config), origin).find("model");
  set_origin(tree, origin);
  return tree;
}

// Lays the model of `initial.checkpoint` under the tree's `model`. What is written there stays, to be held against the checkpoint later.
// Blocks and plan go together: with initial.source_of there is one block an entry, each called once; where the config writes another number
// of blocks, the checkpoint's plan says nothing. InputError where the folder is not there and the config does not say its model itself, and
// for growth without model.blocks: a checkpoint does not know how deep this run will get.
void lay_initial_model_under(YamlNode& root, const InitialModel& initial) {
  const YamlNode* section = root.find("initial");
  const YamlNode* checkpoint = section != nullptr ? section->find("checkpoint") : nullptr;
  if (!initial.read || checkpoint == nullptr || checkpoint->kind != YamlNode::Kind::kScalar || checkpoint->text.empty()) return;
  YamlNode& written = root.member("model");
  if (written.kind == YamlNode::Kind::kNull) written.kind = YamlNode::Kind::kMap;
  std::optional<ModelConfig> model = initial.read(checkpoint->text);
  if (!model) {
    if (has(written, "vocab_size")) return;
    throw InputError(
        fmt::format("{}: initial.checkpoint: {} is not there, and without it nothing says what the model is; allowed: a checkpoint or a "
                    "run folder, or a whole section model",
                    checkpoint->origin, in_quotes(checkpoint->text)));
  }
  keep_depth_of_this_run(*model, root, written);
  merge_under(written, tree_of(*model, "initial.checkpoint " + checkpoint->text));
}

// A branch goes on with its trunk's model; a config that does not say the model (its vocabulary, at the least) has that of the checkpoint.
void lay_branch_model_under(YamlNode& root, const InitialModel& initial) {
  if (!initial.read || initial.branch.empty()) return;
  YamlNode& written = root.member("model");
  if (written.kind == YamlNode::Kind::kNull) written.kind = YamlNode::Kind::kMap;
  if (has(written, "vocab_size")) return;
  std::optional<ModelConfig> model = initial.read(initial.branch);
  if (!model) throw InputError(fmt::format("--branch: {} is not there, and the config does not say its model", in_quotes(initial.branch)));
  keep_depth_of_this_run(*model, root, written);
  merge_under(written, tree_of(*model, "--branch " + initial.branch));
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
  // A run writes it down with all defaults, and reads that back.
  if (const std::size_t bytes = dump_config(config).size(); bytes > kMaxYamlBytes) {
    throw InputError(
        fmt::format("{}: the config: {} bytes with all its defaults written out; allowed: {}", root.origin, bytes, kMaxYamlBytes));
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
    lay_branch_model_under(tree, initial);
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
