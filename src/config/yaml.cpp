#include "config/yaml.h"

#include <charconv>
#include <sstream>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::size_t kMaxNesting = 32;

// Builds the tree from events. Keys and values of a map alternate.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string file, YamlNode& root) : file_(std::move(file)), root_(root) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { scalar(mark, "", anchor, YamlNode::Kind::kNull, "", false); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { fail(mark, "aliases (*name) are not allowed in a config"); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    const bool quoted = tag == "!";
    const bool null = !quoted && (value == "null" || value == "~" || value == "Null" || value == "NULL");
    scalar(mark, tag, anchor, null ? YamlNode::Kind::kNull : YamlNode::Kind::kScalar, value, quoted);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kSequence);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  struct Open {
    YamlNode* node;
    bool has_key = false;
    std::string key;
  };

  std::string origin(const YAML::Mark& mark) const { return fmt::format("{}:{}", file_, mark.line + 1); }
  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw InputError(fmt::format("{}: {}", origin(mark), what));
  }
  void check_plain(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    if (anchor != 0) fail(mark, "anchors (&name) are not allowed in a config");
    if (!tag.empty() && tag != "?" && tag != "!") fail(mark, fmt::format("tag {} is not allowed in a config", printable(tag)));
  }

  // Where the next node goes. A map's key is taken by the scalar that precedes it.
  YamlNode& place(const YAML::Mark& mark) {
    if (open_.empty()) return root_;
    Open& top = open_.back();
    if (top.node->kind == YamlNode::Kind::kSequence) return top.node->items.emplace_back();
    if (!top.has_key) fail(mark, "a key must be a plain word");
    top.has_key = false;
    return top.node->members.emplace_back(top.key, YamlNode{}).second;
  }

  void scalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind, const std::string& value,
              bool quoted) {
    check_plain(mark, tag, anchor);
    if (first_invalid_utf8(value))
      fail(mark, "text that is not UTF-8; the escapes \\N and \\_ are written \\x85 and \\xa0");  // yaml-cpp's are half
    if (!open_.empty() && open_.back().node->kind == YamlNode::Kind::kMap && !open_.back().has_key) {
      take_key(mark, value);
      return;
    }
    YamlNode& node = place(mark);
    node.kind = kind;
    node.text = value;
    node.quoted = quoted;
    node.origin = origin(mark);
  }

  void take_key(const YAML::Mark& mark, const std::string& key) {
    Open& top = open_.back();
    if (const YamlNode* earlier = top.node->find(key)) {
      fail(mark, fmt::format("{}{}: duplicate key; it stands at {} already", path(), printable(key), earlier->origin));
    }
    top.key = key;
    top.has_key = true;
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind) {
    check_plain(mark, tag, anchor);
    if (open_.size() >= kMaxNesting) fail(mark, fmt::format("nested deeper than {} levels", kMaxNesting));
    YamlNode& node = place(mark);
    node.kind = kind;
    node.origin = origin(mark);
    open_.push_back({&node, false, {}});
  }

  // "model.attention." of the map at hand. A pointer into a growing vector would dangle, but only the last child of a node ever grows.
  std::string path() const {
    std::string text;
    for (std::size_t i = 1; i < open_.size(); ++i) {
      const YamlNode& parent = *open_[i - 1].node;
      text += parent.kind == YamlNode::Kind::kMap ? printable(open_[i - 1].key) + "." : fmt::format("[{}].", parent.items.size() - 1);
    }
    return text;
  }

  std::string file_;
  YamlNode& root_;
  std::vector<Open> open_;
};

void check_text(std::string_view text, const std::string& file) {
  if (text.size() > kMaxYamlBytes) throw InputError(fmt::format("{}: {} bytes; a config has at most {}", file, text.size(), kMaxYamlBytes));
  if (const auto bad = first_invalid_utf8(text)) throw InputError(fmt::format("{}: byte offset {}: not UTF-8 text", file, *bad));
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw InputError(fmt::format("{}: byte offset {}: NUL byte", file, nul));
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, node] : members) {
    if (name == key) return &node;
  }
  return nullptr;
}

YamlNode& YamlNode::member(const std::string& key) {
  for (auto& [name, node] : members) {
    if (name == key) return node;
  }
  return members.emplace_back(key, YamlNode{}).second;
}

std::string YamlNode::describe() const {
  switch (kind) {
    case Kind::kNull: return "null";
    case Kind::kScalar: return quoted ? fmt::format("\"{}\"", printable(text)) : printable(text);
    case Kind::kSequence: return "a list";
    case Kind::kMap: return "a map";
  }
  return "?";
}

YamlNode parse_yaml(std::string_view text, const std::string& file) {
  check_text(text, file);
  YamlNode root;
  root.origin = file + ":1";
  try {
    std::istringstream in{std::string(text)};
    YAML::Parser parser(in);
    TreeBuilder builder(file, root);
    if (!parser.HandleNextDocument(builder) || root.kind == YamlNode::Kind::kNull) {
      root.kind = YamlNode::Kind::kMap;
      return root;
    }
    YamlNode second;
    TreeBuilder rest(file, second);
    if (parser.HandleNextDocument(rest)) throw InputError(fmt::format("{}: holds more than one YAML document", file));
  } catch (const YAML::Exception& error) {
    throw InputError(fmt::format("{}:{}: {}", file, error.mark.line + 1, printable(error.msg)));
  }
  return root;
}

void merge_under(YamlNode& over, const YamlNode& under) {
  if (over.kind != YamlNode::Kind::kMap || under.kind != YamlNode::Kind::kMap) return;
  for (const auto& [key, node] : under.members) {
    if (over.find(key) == nullptr) {
      over.members.emplace_back(key, node);
    } else {
      merge_under(over.member(key), node);
    }
  }
}

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
