#include "config/reference.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/scalars.h"
#include "config/schema.h"
#include "core/text.h"

namespace meristem {
namespace {

std::string code(const std::string& text) { return text.empty() ? "" : "`" + text + "`"; }

struct Described {
  std::string type, value;
};
Described described(const std::string& x) { return {"text", code(x)}; }
Described described(std::int64_t x) { return {"whole number", code(std::to_string(x))}; }
Described described(double x) { return {"number", code(number_text(x))}; }
Described described(bool x) { return {"true, false", x ? "`true`" : "`false`"}; }
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

std::string configuration_reference() {
  Page page;
  page.text =
      "# Configuration reference\n\nOne YAML file is one run. Every key, its type, default, allowed values and meaning. Unknown and "
      "duplicate keys, wrong "
      "types,\nvalues out of range and contradictions are refused before any work, with file, line and key path. `include: "
      "base/model.yaml` merges\n"
      "another file under this one; `key=value` on the command line replaces a value (`phases[0].mixture.web=0.5`). This page is written "
      "from the\n"
      "program's own schema (`meristem config-reference`), and a test holds it to that.\n";
  RunConfig defaults;
  describe(page, defaults);
  return page.text;
}

}  // namespace meristem
