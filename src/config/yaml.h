// A YAML file as a tree that remembers where everything stood. Read from yaml-cpp's events, because its nodes forget duplicate keys.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace meristem {

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  std::string text;                                       // kScalar
  bool quoted = false;                                    // kScalar
  std::string origin;                                     // "run.yaml:12", or the argument that set it
  std::vector<YamlNode> items;                            // kSequence
  std::vector<std::pair<std::string, YamlNode>> members;  // kMap, in file order, keys unique

  const YamlNode* find(std::string_view key) const;
  YamlNode& member(const std::string& key);  // created as null where missing
  // What a message says was found: "text", a list, a map, null.
  std::string describe() const;
};

inline constexpr std::size_t kMaxYamlBytes = 1 << 20;

// One document. InputError "FILE:LINE: …" for bad syntax, duplicate keys (both lines), anchors, aliases, tags, several documents, text that
// is not UTF-8, nesting deeper than 32, more than 1 MB. An empty document is an empty map.
YamlNode parse_yaml(std::string_view text, const std::string& file);

// `over` laid over `under`: maps merge key by key, everything else is replaced.
void merge_under(YamlNode& over, const YamlNode& under);

// ---- Nodes by their key path, as variants and the command line name them.
// "phases[0].name" or "phases.0.name" -> phases, 0, name
std::vector<std::string> split_path(const std::string& path);

// The node at a key path, created where it is missing; `origin` is who asks for it. InputError for an empty key or an index out of range.
YamlNode& node_at(YamlNode& root, const std::string& path, const std::string& origin);

// The node and all below it say that they come from `origin`.
void set_origin(YamlNode& node, const std::string& origin);

// "key.path=value" of the command line; the value is YAML.
void apply_override(YamlNode& root, const std::string& argument);

}  // namespace meristem
