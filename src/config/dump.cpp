// What is written from the schema: a config as YAML, its hash and differences, and the reference page.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/load.h"
#include "config/reader.h"
#include "config/yaml.h"
#include "core/file.h"
#include "core/text.h"

namespace meristem {
namespace {

std::string double_quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string yaml(const std::string& x) { return double_quoted(x); }
std::string yaml(std::int64_t x) { return std::to_string(x); }
std::string yaml(double x) { return number_text(x); }
std::string yaml(bool x) { return x ? "true" : "false"; }
std::string yaml(const WrittenPlan& x) { return double_quoted(x.text); }
template <ChoiceEnum E>
std::string yaml(E x) {
  return double_quoted(std::string(word_of(x)));
}
template <ChoiceEnum E>
std::string yaml(const std::optional<E>& x) {
  return x ? yaml(*x) : double_quoted("");
}
std::string yaml(const Amount& x) { return amount_text(x); }
std::string yaml(const RepeatsConfig& x) {
  if (x.number) return std::to_string(*x.number);
  if (x.sampled) {
    return fmt::format("{{kind: poisson_lognormal, mean: {}, sigma: {}, max: {}}}", yaml(x.sampled->mean), yaml(x.sampled->sigma),
                       x.sampled->max);
  }
  std::string entries;
  for (const auto& [from, repeats] : x.schedule)
    entries += fmt::format("{}{}: {}", entries.empty() ? "" : ", ", amount_text(from), repeats);
  return entries.empty() ? "null" : "{" + entries + "}";
}
std::string yaml(const ActivationCheckpointing& x) {
  if (x.every <= 1) return x.every == 0 ? "none" : "block";
  return fmt::format("{{every: {}}}", x.every);
}
template <class T>
std::string yaml(const std::optional<T>& x) {
  return x ? yaml(*x) : "null";
}
template <class T>
std::string yaml(const std::vector<T>& items) {
  std::string out = "[";
  for (const T& item : items) out += (out.size() > 1 ? ", " : "") + yaml(item);
  return out + "]";
}

class Dumper {
 public:
  explicit Dumper(int indent) : indent_(static_cast<std::size_t>(indent), ' ') {}

  template <class T>
  void value(const std::string& key, const T& member, const Rule&) {
    line(key, yaml(member));
  }
  template <class S>
  void section(const std::string& key, S& member, const std::string&) {
    line(key, "");
    nested(member);
  }
  template <class S>
  void optional_section(const std::string& key, std::optional<S>& member, const std::string& meaning) {
    if (member) {
      section(key, *member, meaning);
    } else {
      line(key, "null");
    }
  }
  template <class S>
  void sections(const std::string& key, std::vector<S>& member, const std::string&) {
    line(key, member.empty() ? "[]" : "");
    for (S& item : member) {
      text += indent_ + "  -\n";
      Dumper inner(static_cast<int>(indent_.size()) + 4);
      describe(inner, item);
      text += inner.text;
    }
  }
  template <class S>
  void value_or_section(const std::string& key, S& member, const std::string& meaning) {
    section(key, member, meaning);
  }
  void sources(const std::string& key, std::vector<std::pair<std::string, SourceConfig>>& member, const std::string& meaning) {
    line(key, member.empty() ? "{}" : "");
    Dumper inner(static_cast<int>(indent_.size()) + 2);
    inner.rest_sources(member, meaning);
    text += inner.text;
  }
  void rest_sources(std::vector<std::pair<std::string, SourceConfig>>& member, const std::string&) {
    for (auto& [name, source] : member) {
      line(double_quoted(name), "");
      nested(source);
    }
  }
  void numbers(const std::string& key, const std::vector<std::pair<std::string, double>>& member, const std::string&) {
    if (member.empty()) return;
    line(key, "");
    for (const auto& [name, number] : member) text += fmt::format("{}  {}: {}\n", indent_, double_quoted(name), yaml(number));
  }

  std::string text;

 private:
  void line(const std::string& key, const std::string& value) {
    text += fmt::format("{}{}:{}{}\n", indent_, key, value.empty() ? "" : " ", value);
  }
  template <class S>
  void nested(S& member) {
    Dumper inner(static_cast<int>(indent_.size()) + 2);
    describe(inner, member);
    text += inner.text;
  }

  std::string indent_;
};

void flatten(const YamlNode& node, const std::string& path, std::vector<std::pair<std::string, std::string>>& out) {
  if (node.kind == YamlNode::Kind::kMap) {
    for (const auto& [key, member] : node.members) flatten(member, path.empty() ? key : path + "." + key, out);
  } else if (node.kind == YamlNode::Kind::kSequence) {
    for (std::size_t i = 0; i < node.items.size(); ++i) flatten(node.items[i], fmt::format("{}[{}]", path, i), out);
    out.emplace_back(path + ".length", std::to_string(node.items.size()));
  } else {
    out.emplace_back(path, node.describe());
  }
}

// ---- The reference page.

std::string code(const std::string& text) { return text.empty() ? "" : "`" + text + "`"; }

struct Described {
  std::string type, value;
};
Described described(const std::string& x) { return {"text", code(x)}; }
Described described(std::int64_t x) { return {"whole number", code(std::to_string(x))}; }
Described described(double x) { return {"number", code(number_text(x))}; }
Described described(bool x) { return {"true, false", x ? "`true`" : "`false`"}; }
Described described(const WrittenPlan& x) { return {"text", code(x.text)}; }
template <ChoiceEnum E>
Described described(E x) {
  return {"text", code(std::string(word_of(x)))};
}
template <ChoiceEnum E>
Described described(const std::optional<E>& x) {
  return {"text", x ? code(std::string(word_of(*x))) : ""};
}
Described described(const Amount& x) { return {"steps or tokens", code(amount_text(x))}; }
Described described(const RepeatsConfig&) { return {"number or map", "`null`"}; }
Described described(const ActivationCheckpointing&) { return {"none, block, {every: k}", "`none`"}; }
template <class T>
Described described(const std::optional<T>&) {
  return {described(T{}).type, "`null`"};
}
template <class T>
Described described(const std::vector<T>& items) {
  std::vector<std::string> parts;
  for (const T& item : items) parts.push_back(described(item).value);
  return {"list of " + described(T{}).type, parts.empty() ? "`[]`" : fmt::format("{}", fmt::join(parts, " "))};
}

std::string allowed_text(const Rule& rule) {
  if (!rule.allowed.empty()) {
    std::vector<std::string> parts;
    for (const std::string& value : rule.allowed) parts.push_back(value.empty() ? "empty" : code(value));
    return fmt::format("{}", fmt::join(parts, " "));
  }
  std::string text;
  if (rule.min > -1e300) text += fmt::format("{} {}", rule.above_min ? ">" : ">=", number_text(rule.min));
  if (rule.max < 1e300) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", rule.below_max ? "<" : "<=", number_text(rule.max));
  return text;
}

class Page {
 public:
  std::string text;

  template <class T>
  void value(const std::string& key, const T& member, const Rule& rule) {
    const Described d = described(member);
    row(key, d.type, rule.required ? "required" : d.value, allowed_text(rule), rule.meaning);
  }
  template <class S>
  void section(const std::string& key, S& member, const std::string& meaning) {
    if (path_.empty()) {
      text += fmt::format("\n## {}\n\n{}.\n\n| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n", key, meaning);
    }
    within(key, member);
  }
  template <class S>
  void optional_section(const std::string& key, std::optional<S>&, const std::string& meaning) {
    S member;
    section(key, member, meaning);
  }
  template <class S>
  void sections(const std::string& key, std::vector<S>&, const std::string& meaning) {
    S member;
    section(key + "[]", member, meaning);
  }
  template <class S>
  void value_or_section(const std::string& key, S& member, const std::string& meaning) {
    section(key, member, meaning);
  }
  void sources(const std::string& key, std::vector<std::pair<std::string, SourceConfig>>&, const std::string& meaning) {
    row(key + ".NAME", "map", "", "", meaning);
    SourceConfig source;
    within(key + ".NAME", source);
  }
  void rest_sources(std::vector<std::pair<std::string, SourceConfig>>&, const std::string& meaning) {
    row("NAME", "map", "", "", meaning);
    SourceConfig source;
    within("NAME", source);
  }
  void numbers(const std::string& key, const std::vector<std::pair<std::string, double>>&, const std::string& meaning) {
    row(key + ".NAME", "number", "", ">= 0", meaning);
  }

 private:
  void row(const std::string& key, const std::string& type, const std::string& value, const std::string& allowed,
           const std::string& meaning) {
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", path_ + key, type, value, allowed, meaning);
  }
  template <class S>
  void within(const std::string& key, S& member) {
    const std::string outer = path_;
    path_ += key + ".";
    describe(*this, member);
    path_ = outer;
  }
  std::string path_;
};

}  // namespace

std::string dump_config(const RunConfig& config) {
  RunConfig copy = config;  // describe() takes members to fill or to read; here they are read
  Dumper dumper(0);
  describe(dumper, copy);
  return dumper.text;
}

std::string config_hash(const RunConfig& config) {
  const std::string text = dump_config(config);
  return xxh3_hex({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

std::vector<std::pair<std::string, std::string>> config_values(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> out;
  flatten(parse_yaml(dump_config(config), "config"), "", out);
  return out;
}

std::vector<ConfigDifference> config_differences(const RunConfig& a, const RunConfig& b) {
  const auto first = config_values(a), second = config_values(b);
  const auto find = [](const auto& in, const std::string& key) -> std::string {
    for (const auto& [name, value] : in) {
      if (name == key) return value;
    }
    return "absent";
  };
  std::vector<ConfigDifference> out;
  for (const auto& [key, value] : first) {
    const std::string other = find(second, key);
    if (other != value) out.push_back({key, value, other});
  }
  for (const auto& [key, value] : second) {
    if (find(first, key) == "absent") out.push_back({key, "absent", value});
  }
  return out;
}

std::string configuration_reference() {
  Page page;
  page.text =
      "# Configuration reference\n\n"
      "One YAML file describes one run. These are all keys, with type, default, allowed values and meaning. Unknown and duplicate keys,\n"
      "wrong types, values out of range and contradictions are refused before any work, with file, line and key path.\n"
      "`include: base/model.yaml` merges another file under this one. `key=value` on the command line replaces a value\n"
      "(`phases[0].mixture.web=0.5`). This page is written from the program's own schema (`meristem config-reference`), and a test\n"
      "compares the two.\n";
  RunConfig defaults;
  describe(page, defaults);
  return page.text;
}

}  // namespace meristem
