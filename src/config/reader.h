// Reads a RunConfig from a YAML tree by the schema's descriptions. Unknown keys, wrong types and values out of range are InputErrors
// "ORIGIN: full.key.path: found X; allowed Y (did you mean Z?)".
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "config/run_config.h"
#include "config/yaml.h"

namespace meristem {

// Key path -> where it was set.
using Origins = std::map<std::string, std::string>;

RunConfig read_config(const YamlNode& root, Origins& origins);

// ---- Scalars, read strictly: no octal, no hex, no NaN, no guessing.

// A decimal number such as 3, -2, 0.5, 1e-3; nothing where the text is anything else (a leading zero, nan, inf, 0x1, 1_000).
std::optional<double> parse_number(const std::string& text);
// A whole number, also as 1e3; nothing beyond 2^53.
std::optional<std::int64_t> parse_whole(const std::string& text);
// "50e9 tokens" or a plain number of steps.
std::optional<Amount> parse_amount(const std::string& text, bool quoted);
// The text that parse_amount reads back.
std::string amount_text(const Amount& amount);

// What a number's rule allows: "a whole number of at least 0, at most 4096"; `kind` is its first words.
std::string range_text(const Rule& rule, const char* kind);

}  // namespace meristem
