// How a config describes itself. Beside each struct of model_config.h and run_config.h stands describe(visitor, struct): every key with its
// member, allowed values and meaning. Parsing, checking, dumping and the reference page are visitors of these descriptions, so they cannot
// disagree.
//
// A visitor V has: value(key, member, rule); section(key, member, meaning); optional_section(key, member, meaning);
// sections(key, vector, meaning); sources(key, vector, meaning); rest_sources(vector, meaning) for the keys not named before;
// numbers(key, vector, meaning); value_or_section(key, member, meaning).
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "core/choice.h"

namespace meristem {

struct Rule {
  std::string meaning;
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool above_min = false, below_max = false;  // the bound itself is not allowed
  std::vector<std::string> allowed = {};      // for text and choices: the only values; empty: any
  bool required = false;
};

inline Rule any(std::string meaning) { return {std::move(meaning)}; }
inline Rule at_least(double min, std::string meaning) { return {std::move(meaning), min}; }
inline Rule within(double min, double max, std::string meaning, bool below_max = false, bool above_min = false) {
  return {std::move(meaning), min, max, above_min, below_max};
}
inline Rule one_of(std::vector<std::string> allowed, std::string meaning) {
  Rule rule{std::move(meaning)};
  rule.allowed = std::move(allowed);
  return rule;
}
// The words of an enum.
template <ChoiceEnum E>
Rule one_of(std::string meaning) {
  return one_of(all_words<E>(), std::move(meaning));
}
// Or empty, for a member that is std::optional<E>.
template <ChoiceEnum E>
Rule one_of_or_empty(std::string meaning) {
  Rule rule = one_of<E>(std::move(meaning));
  rule.allowed.emplace_back();
  return rule;
}
inline Rule required(Rule rule) {
  rule.required = true;
  return rule;
}

inline bool in_range(double value, const Rule& rule) {
  if (rule.above_min ? value <= rule.min : value < rule.min) return false;
  return !(rule.below_max ? value >= rule.max : value > rule.max);
}

}  // namespace meristem
