#include "config/scalars.h"

#include <charconv>
#include <cmath>

#include "core/text.h"

namespace meristem {
namespace {

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

}  // namespace

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

}  // namespace meristem
