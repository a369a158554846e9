// Scalars of a config, read strictly: no octal, no hex, no NaN, no guessing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/run_config.h"

namespace meristem {

// A decimal number such as 3, -2, 0.5, 1e-3; nothing where the text is anything else (a leading zero, nan, inf, 0x1, 1_000).
std::optional<double> parse_number(const std::string& text);
// A whole number, also as 1e3; nothing beyond 2^53.
std::optional<std::int64_t> parse_whole(const std::string& text);
// "50e9 tokens" or a plain number of steps.
std::optional<Amount> parse_amount(const std::string& text, bool quoted);
// The text that parse_amount reads back.
std::string amount_text(const Amount& amount);

}  // namespace meristem
