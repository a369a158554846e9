#include "config/rules.h"

#include <algorithm>
#include <type_traits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

// Walks the schema and holds each number and each chosen word against its rule. Forms that are read by functions of their own are checked
// there, and nothing derives them.
class RuleCheck {
 public:
  template <class T>
  void value(const std::string& key, const T& member, const Rule& rule) {
    check(path_ + key, member, rule);
  }
  template <class S>
  void section(const std::string& key, S& member, const std::string&) {
    within(key, member);
  }
  template <class S>
  void optional_section(const std::string& key, std::optional<S>& member, const std::string&) {
    if (member) within(key, *member);
  }
  template <class S>
  void sections(const std::string& key, std::vector<S>& member, const std::string&) {
    for (std::size_t i = 0; i < member.size(); ++i) within(fmt::format("{}[{}]", key, i), member[i]);
  }
  template <class S>
  void value_or_section(const std::string& key, S& member, const std::string&) {
    within(key, member);
  }
  void sources(const std::string& key, std::vector<std::pair<std::string, SourceConfig>>& member, const std::string&) {
    for (auto& [name, source] : member) within(key + "." + name, source);
  }
  void rest_sources(std::vector<std::pair<std::string, SourceConfig>>& member, const std::string&) {
    for (auto& [name, source] : member) within(name, source);
  }
  void numbers(const std::string&, const std::vector<std::pair<std::string, double>>&, const std::string&) {}

 private:
  template <class S>
  void within(const std::string& key, S& member) {
    const std::string outer = path_;
    path_ += key + ".";
    describe(*this, member);
    path_ = outer;
  }

  template <class T>
  static void check(const std::string& key, const T& member, const Rule& rule) {
    if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, double>) {
      const bool whole = std::is_same_v<T, std::int64_t>;
      if (in_range(static_cast<double>(member), rule)) return;
      throw InputError(fmt::format("{}: comes to {}; allowed: {}", key, number_text(static_cast<double>(member)),
                                   range_text(rule, whole ? "a whole number" : "a number")));
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (rule.allowed.empty() || std::find(rule.allowed.begin(), rule.allowed.end(), member) != rule.allowed.end()) return;
      throw InputError(fmt::format("{}: comes to {}; allowed: {}", key, in_quotes(member), fmt::join(rule.allowed, ", ")));
    }
  }

  std::string path_;
};

}  // namespace

bool in_range(double value, const Rule& rule) {
  if (rule.above_min ? value <= rule.min : value < rule.min) return false;
  return !(rule.below_max ? value >= rule.max : value > rule.max);
}

std::string range_text(const Rule& rule, const char* kind) {
  std::string text = kind;
  const bool low = rule.min > -1e300, high = rule.max < 1e300;
  if (low) text += fmt::format(" {} {}", rule.above_min ? "above" : "of at least", number_text(rule.min));
  if (high) text += fmt::format("{} {} {}", low ? "," : "", rule.below_max ? "below" : "at most", number_text(rule.max));
  return text;
}

void check_rules(const RunConfig& config) {
  RunConfig copy = config;  // describe() takes members to fill or to read; here they are read
  RuleCheck check;
  describe(check, copy);
}

}  // namespace meristem
