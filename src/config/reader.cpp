#include "config/reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::size_t kLongestSourceName = 200;

// What YAML cannot hold between quotes as it is.
bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20; });
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Optional sign, digits without a needless leading zero, optional fraction and exponent.
bool looks_decimal(const std::string& text) {
  std::size_t at = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const std::size_t whole = at;
  while (at < text.size() && is_digit(text[at])) ++at;
  const std::size_t digits = at - whole;
  if (digits == 0 || (digits > 1 && text[whole] == '0')) return false;
  if (at < text.size() && text[at] == '.') {
    const std::size_t fraction = ++at;
    while (at < text.size() && is_digit(text[at])) ++at;
    if (at == fraction) return false;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    const std::size_t exponent = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    if (at == exponent) return false;
  }
  return at == text.size();
}

// Whether null may stand for a member: where its default is to have none. `width: null` has no meaning.
template <class T>
bool none_by_default(const T&) {
  return true;
}
bool none_by_default(bool) { return false; }
bool none_by_default(std::int64_t member) { return member == 0; }
bool none_by_default(double member) { return member == 0; }
bool none_by_default(const Amount& member) { return member.value == 0; }
bool none_by_default(const std::string& member) { return member.empty(); }
bool none_by_default(const WrittenPlan& member) { return member.empty(); }
template <ChoiceEnum E>
bool none_by_default(const E&) {
  return false;
}
template <class T>
bool none_by_default(const std::vector<T>& member) {
  return member.empty();
}

class Reader {
 public:
  Reader(const YamlNode& node, std::string path, Origins& origins) : node_(node), path_(std::move(path)), origins_(origins) {
    if (node.kind != YamlNode::Kind::kMap) fail(node, path_.empty() ? "the config" : path_, node.describe(), "a map of keys");
  }

  template <class T>
  void value(const std::string& key, T& member, const Rule& rule) {
    const YamlNode* found = look_up(key);
    const bool null = found != nullptr && found->kind == YamlNode::Kind::kNull;
    if (found != nullptr && !(null && (rule.required || none_by_default(member)))) {
      read(*found, path_of(key), member, rule);
    } else if (rule.required) {
      throw InputError(fmt::format("{}: {}: is missing; it is required", node_.origin, printable(path_of(key), 200)));
    }
  }
  template <class S>
  void section(const std::string& key, S& member, const std::string&) {
    const YamlNode* found = look_up(key);
    // A section with required keys must complain about them even where it is absent.
    static const YamlNode kEmpty = [] {
      YamlNode n;
      n.kind = YamlNode::Kind::kMap;
      return n;
    }();
    const bool given = found != nullptr && found->kind != YamlNode::Kind::kNull;
    YamlNode empty = kEmpty;
    empty.origin = found != nullptr ? found->origin : node_.origin;
    Reader reader(given ? *found : empty, path_of(key), origins_);
    describe(reader, member);
    reader.refuse_unknown();
  }
  template <class S>
  void optional_section(const std::string& key, std::optional<S>& member, const std::string& meaning) {
    const YamlNode* found = look_up(key);
    if (found == nullptr || found->kind == YamlNode::Kind::kNull) return;
    section(key, member.emplace(), meaning);
  }
  template <class S>
  void sections(const std::string& key, std::vector<S>& member, const std::string&) {
    const YamlNode* found = look_up(key);
    if (found == nullptr || found->kind == YamlNode::Kind::kNull) return;
    if (found->kind != YamlNode::Kind::kSequence) fail(*found, path_of(key), found->describe(), "a list of maps");
    for (std::size_t i = 0; i < found->items.size(); ++i) {
      Reader reader(found->items[i], fmt::format("{}[{}]", path_of(key), i), origins_);
      describe(reader, member.emplace_back());
      reader.refuse_unknown();
    }
  }
  template <class S>
  void value_or_section(const std::string& key, S& member, const std::string& meaning) {
    const YamlNode* found = look_up(key);
    if (found != nullptr && found->kind == YamlNode::Kind::kScalar) {
      AllValues all{*this, *found, path_of(key)};
      describe(all, member);
      return;
    }
    section(key, member, meaning);
  }

  using Sources = std::vector<std::pair<std::string, SourceConfig>>;
  void sources(const std::string& key, Sources& member, const std::string&) {
    const YamlNode* found = look_up(key);
    if (found == nullptr || found->kind == YamlNode::Kind::kNull) return;
    if (found->kind != YamlNode::Kind::kMap) fail(*found, path_of(key), found->describe(), "a map of sources by name");
    for (const auto& [name, node] : found->members) read_source(name, node, path_of(key), member);
  }
  void rest_sources(Sources& member, const std::string&) {
    rest_ = true;
    for (const auto& [name, node] : node_.members) {
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) read_source(name, node, path_, member);
    }
  }
  void numbers(const std::string& key, std::vector<std::pair<std::string, double>>& member, const std::string&) {
    const YamlNode* found = look_up(key);
    if (found == nullptr || found->kind == YamlNode::Kind::kNull) return;
    if (found->kind != YamlNode::Kind::kMap) fail(*found, path_of(key), found->describe(), "a map of numbers by name");
    for (const auto& [name, node] : found->members) {
      check_name(name, node, path_of(key));
      note(path_of(key) + "." + name, node);
      double number = 0;
      read(node, path_of(key) + "." + name, number, at_least(0, ""));
      member.emplace_back(name, number);
    }
  }

  void refuse_unknown() const {
    if (rest_) return;
    for (const auto& [name, node] : node_.members) {
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      const auto near = did_you_mean(name, known_);
      throw InputError(fmt::format("{}: {}: unknown key; allowed: {}{}", node.origin, printable(path_of(name), 200),
                                   fmt::join(known_, ", "), near ? fmt::format(" (did you mean {}?)", *near) : ""));
    }
  }

 private:
  // `kernels: auto`: one value for every key of the section that is an operator's path; the others keep their defaults.
  struct AllValues {
    Reader& reader;
    const YamlNode& node;
    std::string path;
    void value(const std::string&, std::string& member, const Rule& rule) {
      if (std::find(rule.allowed.begin(), rule.allowed.end(), "fused") != rule.allowed.end()) reader.read(node, path, member, rule);
    }
  };

  [[noreturn]] static void fail(const YamlNode& node, const std::string& path, const std::string& found, const std::string& allowed) {
    throw InputError(fmt::format("{}: {}: found {}; allowed: {}", node.origin, printable(path, 200), found, allowed));
  }
  std::string path_of(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  void note(const std::string& path, const YamlNode& node) { origins_[path] = node.origin; }
  const YamlNode* look_up(const std::string& key) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.push_back(key);
    const YamlNode* found = node_.find(key);
    if (found != nullptr) note(path_of(key), *found);
    return found;
  }
  static const std::string& scalar(const YamlNode& node, const std::string& path, const std::string& allowed, bool allow_quoted) {
    if (node.kind != YamlNode::Kind::kScalar || (node.quoted && !allow_quoted)) fail(node, path, node.describe(), allowed);
    return node.text;
  }

  void read(const YamlNode& node, const std::string& path, std::string& out, const Rule& rule) {
    const std::string& text = scalar(node, path, rule.allowed.empty() ? "text" : fmt::format("{}", fmt::join(rule.allowed, ", ")), true);
    if (!rule.allowed.empty() && std::find(rule.allowed.begin(), rule.allowed.end(), text) == rule.allowed.end()) {
      const auto near = did_you_mean(text, rule.allowed);
      fail(node, path, node.describe(), fmt::format("{}{}", fmt::join(rule.allowed, ", "), near ? " (did you mean " + *near + "?)" : ""));
    }
    if (has_control_character(text)) fail(node, path, node.describe(), "text without control characters");
    out = text;
  }
  template <ChoiceEnum E>
  void read(const YamlNode& node, const std::string& path, E& out, const Rule& rule) {
    std::string word;
    read(node, path, word, rule);
    out = *choice_of<E>(word);
  }
  template <ChoiceEnum E>  // which may be empty
  void read(const YamlNode& node, const std::string& path, std::optional<E>& out, const Rule& rule) {
    std::string word;
    read(node, path, word, rule);
    out = choice_of<E>(word);
  }
  // Parsed by validate, when it is known how many plans there may be.
  void read(const YamlNode& node, const std::string& path, WrittenPlan& out, const Rule& rule) { read(node, path, out.text, rule); }
  void read(const YamlNode& node, const std::string& path, std::int64_t& out, const Rule& rule) {
    const std::string allowed = range_text(rule, "a whole number");
    const auto value = parse_whole(scalar(node, path, allowed, false));
    if (!value || !in_range(static_cast<double>(*value), rule)) fail(node, path, node.describe(), allowed);
    out = *value;
  }
  void read(const YamlNode& node, const std::string& path, double& out, const Rule& rule) {
    const std::string allowed = range_text(rule, "a number");
    const auto value = parse_number(scalar(node, path, allowed, false));
    if (!value || !in_range(*value, rule)) fail(node, path, node.describe(), allowed);
    out = *value;
  }
  void read(const YamlNode& node, const std::string& path, bool& out, const Rule&) {
    const std::string& text = scalar(node, path, "true, false", false);
    if (text != "true" && text != "false") fail(node, path, node.describe(), "true, false");
    out = text == "true";
  }
  void read(const YamlNode& node, const std::string& path, Amount& out, const Rule& rule) {
    const std::string allowed = range_text(rule, "a whole number of steps, or tokens as \"50e9 tokens\",");
    const auto value = parse_amount(scalar(node, path, allowed, true), node.quoted);
    if (!value || !in_range(value->value, rule)) fail(node, path, node.describe(), allowed);
    out = *value;
  }
  // model.loop.repeats: a number, {UPDATE: number, …}, or {kind: poisson_lognormal, …}.
  void read(const YamlNode& node, const std::string& path, RepeatsConfig& out, const Rule& rule) {
    if (node.kind != YamlNode::Kind::kMap) {
      if (node.kind != YamlNode::Kind::kScalar)
        fail(node, path, node.describe(), "a number, {UPDATE: number, …}, {kind: poisson_lognormal, …}");
      read(node, path, out.number.emplace(), rule);
    } else if (node.members.empty() || parse_amount(node.members.front().first, false)) {
      read_schedule(node, path, out, rule);
    } else {
      Reader reader(node, path, origins_);
      SampledRepeats sampled{out.sampled.emplace()};
      describe(reader, sampled);
      reader.refuse_unknown();
    }
  }
  void read_schedule(const YamlNode& node, const std::string& path, RepeatsConfig& out, const Rule& rule) {
    if (node.members.empty()) fail(node, path, "an empty map", "{UPDATE: number, …} with an entry for update 0");
    for (const auto& [key, value] : node.members) {
      note(path + "." + key, value);
      const auto from = parse_amount(key, false);
      if (!from) fail(value, path + "." + key, "key " + in_quotes(key), "an update, or tokens as \"50e9 tokens\"");
      read(value, path + "." + key, out.schedule.emplace_back(*from, 0).second, rule);
    }
  }
  void read(const YamlNode& node, const std::string& path, ActivationCheckpointing& out, const Rule& rule) {
    if (node.kind == YamlNode::Kind::kMap) {
      Reader reader(node, path, origins_);
      Rule every = rule;
      every.required = true;
      reader.value("every", out.every, every);
      reader.refuse_unknown();
      return;
    }
    std::string word;
    read(node, path, word, one_of({"none", "block", "{every: k}"}, ""));
    if (word == "{every: k}") fail(node, path, node.describe(), "none, block, {every: k}");
    out.every = word == "block" ? 1 : 0;
  }
  template <class T>
  void read(const YamlNode& node, const std::string& path, std::optional<T>& out, const Rule& rule) {
    read(node, path, out.emplace(), rule);
  }
  template <class T>
  void read(const YamlNode& node, const std::string& path, std::vector<T>& out, const Rule& rule) {
    if (node.kind != YamlNode::Kind::kSequence) fail(node, path, node.describe(), "a list");
    out.clear();
    for (std::size_t i = 0; i < node.items.size(); ++i) read(node.items[i], fmt::format("{}[{}]", path, i), out.emplace_back(), rule);
  }
  // Names that somebody chose become keys of the config that a run writes, and of its metrics.
  static void check_name(const std::string& name, const YamlNode& node, const std::string& section) {
    if (!name.empty() && name.size() <= kLongestSourceName && !has_control_character(name)) return;
    const std::string found = name.empty() ? "an empty name" : fmt::format("the name {}", in_quotes(name));
    fail(node, section, found, fmt::format("names of 1 to {} bytes without control characters", kLongestSourceName));
  }
  void read_source(const std::string& name, const YamlNode& node, const std::string& section, Sources& member) {
    check_name(name, node, section);
    const std::string path = section.empty() ? name : section + "." + name;
    note(path, node);
    Reader reader(node, path, origins_);
    describe(reader, member.emplace_back(name, SourceConfig{}).second);
    reader.refuse_unknown();
  }

  const YamlNode& node_;
  std::string path_;
  Origins& origins_;
  std::vector<std::string> known_;
  bool rest_ = false;
};

}  // namespace

std::string range_text(const Rule& rule, const char* kind) {
  std::string text = kind;
  const bool low = rule.min > -1e300, high = rule.max < 1e300;
  if (low) text += fmt::format(" {} {}", rule.above_min ? "above" : "of at least", number_text(rule.min));
  if (high) text += fmt::format("{} {} {}", low ? "," : "", rule.below_max ? "below" : "at most", number_text(rule.max));
  return text;
}

std::optional<double> parse_number(const std::string& text) {
  if (!looks_decimal(text)) return std::nullopt;
  double value = 0;
  const char* begin = text.data() + (text[0] == '+' ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_whole(const std::string& text) {
  const auto value = parse_number(text);
  if (!value || std::floor(*value) != *value || std::abs(*value) > 0x1p53) return std::nullopt;
  return static_cast<std::int64_t>(*value);
}

std::optional<Amount> parse_amount(const std::string& text, bool quoted) {
  static const std::string kUnit = " tokens";
  if (text.size() > kUnit.size() && text.compare(text.size() - kUnit.size(), kUnit.size(), kUnit) == 0) {
    const auto value = parse_number(text.substr(0, text.size() - kUnit.size()));
    if (!value || *value < 0) return std::nullopt;
    return Amount{*value, true};
  }
  if (quoted) return std::nullopt;
  const auto value = parse_whole(text);
  if (!value || *value < 0) return std::nullopt;
  return Amount{static_cast<double>(*value), false};
}

std::string amount_text(const Amount& amount) {
  if (amount.in_tokens) return "\"" + number_text(amount.value) + " tokens\"";
  return std::to_string(static_cast<std::int64_t>(amount.value));
}

RunConfig read_config(const YamlNode& root, Origins& origins) {
  RunConfig config;
  Reader reader(root, "", origins);
  describe(reader, config);
  reader.refuse_unknown();
  return config;
}

}  // namespace meristem
