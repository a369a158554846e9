// Ways to damage a file, from single bits to the things that parsers stumble over.
#pragma once

#include <cstdint>
#include <string>

#include "fuzz/random.h"

namespace meristem::fuzz {

// Anything: bits, bytes, pieces cut, doubled, moved, truncated, little-endian integers with extreme values at any offset.
void mutate_bytes(std::string& bytes, Dice& dice);

// Text of YAML or JSON: numbers to extremes, members and lines doubled, removed, swapped, brackets by the thousand, foreign tokens.
void mutate_text(std::string& text, Dice& dice);

// Little-endian integer of 1 to 8 bytes; nothing where it does not fit into the bytes.
std::uint64_t get_integer(const std::string& bytes, std::size_t at, std::size_t width);
void put_integer(std::string& bytes, std::size_t at, std::size_t width, std::uint64_t value);

// A value that is likely to overflow, wrap or lie just beside a bound; `near` is the true value.
std::uint64_t extreme_integer(Dice& dice, std::uint64_t near);

}  // namespace meristem::fuzz
