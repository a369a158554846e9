// RunConfig -> YAML, by the schema's descriptions.
#include <fmt/format.h>

#include "config/load.h"
#include "config/scalars.h"
#include "config/schema.h"
#include "config/yaml_tree.h"
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

std::vector<std::pair<std::string, std::string>> flat(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> out;
  flatten(parse_yaml(dump_config(config), "config"), "", out);
  return out;
}

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

std::vector<ConfigDifference> config_differences(const RunConfig& a, const RunConfig& b) {
  const auto first = flat(a), second = flat(b);
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

}  // namespace meristem
