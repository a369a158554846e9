// Small text tools for messages and numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace meristem {

// The shortest decimal that reads back to the same double ("0.1", "1e-05", "nan", "inf").
std::string number_text(double value);

// A whole number with thousands separated for reading: 361,821,120.
std::string grouped_digits(std::int64_t value);

// "1.5 KiB", "2.00 GiB".
std::string bytes_text(double bytes);

// The candidate nearest to `word` by edit distance, where it is near enough to be what the user meant.
std::optional<std::string> did_you_mean(std::string_view word, std::span<const std::string> candidates);

// Offset of the first byte that is not part of well-formed UTF-8, or nothing.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);

// `text` for a one-line message: control characters and bytes that are not UTF-8 as \xNN, cut to about max_bytes with "…".
std::string printable(std::string_view text, std::size_t max_bytes = 80);
// The same in single quotes.
std::string in_quotes(std::string_view text);

}  // namespace meristem
