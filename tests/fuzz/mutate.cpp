#include "fuzz/mutate.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace meristem::fuzz {
namespace {

struct Piece {
  std::size_t at, size;
};

Piece any_piece(const std::string& bytes, Dice& dice, std::size_t longest) {
  const std::size_t at = dice.below(bytes.size() + 1);
  return {at, dice.below(std::min(longest, bytes.size() - at) + 1)};
}

// clang-format off
constexpr std::array<std::string_view, 34> kNumbers{
    "0", "-0", "-1", "1", "2", "010", "0x10", "0o17", "1e999", "-1e999", "1e-999", "NaN", ".nan", ".inf", "-.inf", "1_000", "1e9",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
    "18446744073709551616", "4294967296", "2147483648", "0.1", "1.", ".5", "+1", "", "null", "true", "\"1\"", "1:30"};

constexpr std::array<std::string_view, 51> kTokens{
    "{", "}", "[", "]", ":", ": ", ",", "\"", "'", "\n", "\t", " ", "- ", "#", "&a ", "*a", "<<: *a\n",
    "!!binary ", "!!int ", "!<x> ", "|\n", ">\n",
    "---\n", "...\n", "%YAML 1.2\n", "? ", "\\u0000", "\\ud800", "\\0", "\\x01", "\\n", "\\t", "\\x7f", "\\N", "\\L", "\xEF\xBB\xBF", "\xFF\xFE", "\xC3",
    "\xE2\x80\xA8", "\r", "null", "~", "[[]]", "{}",
    "\"\"", "{\"a\":{}}",
    "include: run.yaml\n", "include: [run.yaml, run.yaml]\n", "e+", "..", "//"};
// clang-format on

bool is_number_byte(char c) { return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'; }

void replace_number(std::string& text, Dice& dice) {
  std::vector<Piece> numbers;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] < '0' || text[i] > '9') continue;
    std::size_t end = i;
    while (end < text.size() && is_number_byte(text[end])) ++end;
    numbers.push_back({i, end - i});
    i = end;
  }
  if (numbers.empty()) return;
  const Piece number = dice.pick(numbers);
  std::string with(dice.pick(kNumbers));
  if (dice.chance(0.3)) with = std::to_string(dice.word() >> dice.below(64));
  text.replace(number.at, number.size, with);
}

// What a member or an entry is, roughly: from after one separator to after the next.
void rearrange(std::string& text, Dice& dice, std::string_view separators) {
  std::vector<std::size_t> cuts{0};
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (separators.find(text[i]) != std::string_view::npos) cuts.push_back(i + 1);
  }
  cuts.push_back(text.size());
  const auto segment = [&] {
    const std::size_t k = dice.below(cuts.size() - 1);
    return text.substr(cuts[k], cuts[k + 1] - cuts[k]);
  };
  const std::size_t k = dice.below(cuts.size() - 1);
  const std::string here = text.substr(cuts[k], cuts[k + 1] - cuts[k]);
  const std::size_t to = dice.pick(cuts);
  switch (dice.below(4)) {
    case 0: text.insert(to, here); break;
    case 1: text.erase(cuts[k], here.size()); break;
    case 2: text.replace(cuts[k], here.size(), segment()); break;
    default: text.insert(cuts[k], here); break;
  }
}

void nest(std::string& text, Dice& dice) {
  static constexpr std::array<std::size_t, 5> kDepths{3, 63, 65, 1000, 50000};
  const std::size_t depth = dice.pick(kDepths);
  const std::size_t at = dice.below(text.size() + 1);
  static constexpr std::array<std::string_view, 6> kOpen{"[", "{", "{\"a\":", "- ", "[{a: ", "("};
  const std::string_view open = dice.pick(kOpen);
  std::string run;
  for (std::size_t i = 0; i < depth; ++i) run += open;
  if (dice.chance(0.5)) run.append(depth, open[0] == '{' ? '}' : ']');
  text.insert(at, run);
}

void indent(std::string& text, Dice& dice) {
  std::vector<std::size_t> starts{0};
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') starts.push_back(i + 1);
  }
  text.insert(dice.pick(starts), std::string(1 + dice.below(4), dice.chance(0.9) ? ' ' : '\t'));
}

}  // namespace

std::uint64_t get_integer(const std::string& bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i) {
    value |= std::uint64_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  }
  return value;
}

void put_integer(std::string& bytes, std::size_t at, std::size_t width, std::uint64_t value) {
  if (at > bytes.size() || width > bytes.size() - at) return;
  for (std::size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i) & 0xFF);
}

std::uint64_t extreme_integer(Dice& dice, std::uint64_t near) {
  switch (dice.below(6)) {
    case 0: return near + 1;
    case 1: return near - 1;
    case 2: return ~std::uint64_t{0} - dice.below(16);
    case 3: return (std::uint64_t{1} << dice.below(64)) - dice.below(2);
    case 4: return dice.below(32);
    default: return dice.word() >> dice.below(64);
  }
}

void mutate_bytes(std::string& bytes, Dice& dice) {
  const Piece piece = any_piece(bytes, dice, 64);
  switch (dice.below(9)) {
    case 0:
      if (!bytes.empty()) {
        char& byte = bytes[dice.below(bytes.size())];
        byte = static_cast<char>(static_cast<unsigned char>(byte) ^ (1u << dice.below(8)));
      }
      break;
    case 1:
      if (!bytes.empty()) bytes[dice.below(bytes.size())] = static_cast<char>(dice.word());
      break;
    case 2: bytes.erase(piece.at, piece.size); break;
    case 3: bytes.insert(dice.below(bytes.size() + 1), bytes.substr(piece.at, piece.size)); break;
    case 4: bytes.resize(dice.below(bytes.size() + 1)); break;
    case 5: bytes.append(dice.below(40), static_cast<char>(dice.word())); break;
    case 6: {
      const std::string copy = bytes.substr(piece.at, piece.size);
      bytes.replace(dice.below(bytes.size() - copy.size() + 1), copy.size(), copy);
      break;
    }
    case 7: {
      const std::size_t width = std::size_t{1} << dice.below(4);
      const std::size_t at = dice.below(bytes.size() + 1) / width * width;
      put_integer(bytes, at, width, extreme_integer(dice, get_integer(bytes, at, width)));
      break;
    }
    default: std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(piece.at), piece.size, dice.chance(0.5) ? '\0' : '\xff'); break;
  }
}

void mutate_text(std::string& text, Dice& dice) {
  switch (dice.below(10)) {
    case 0:
    case 1:
    case 2: replace_number(text, dice); break;
    case 3:
    case 4: rearrange(text, dice, "\n"); break;
    case 5: rearrange(text, dice, ",{}[]"); break;
    case 6: text.insert(dice.below(text.size() + 1), dice.pick(kTokens)); break;
    case 7: dice.chance(0.2) ? nest(text, dice) : indent(text, dice); break;
    default: mutate_bytes(text, dice); break;
  }
}

}  // namespace meristem::fuzz
