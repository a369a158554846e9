// Enums whose values have words: in YAML, on the command line, in messages. Beside such an enum stands the one list of them, in the order
// of its values:
//   enum class Norm { kPre, kPost, kSandwich };
//   constexpr auto words_of(Norm) { return std::array{"pre", "post", "sandwich"}; }
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace meristem {

template <class E>
concept ChoiceEnum = std::is_enum_v<E> && requires { words_of(E{}); };

template <ChoiceEnum E>
constexpr std::string_view word_of(E value) {
  return words_of(E{})[static_cast<std::size_t>(value)];
}

// Nothing where no value is called so.
template <ChoiceEnum E>
constexpr std::optional<E> choice_of(std::string_view word) {
  constexpr auto kWords = words_of(E{});
  for (std::size_t i = 0; i < kWords.size(); ++i) {
    if (kWords[i] == word) return static_cast<E>(i);
  }
  return std::nullopt;
}

template <ChoiceEnum E>
std::vector<std::string> all_words() {
  constexpr auto kWords = words_of(E{});
  return {kWords.begin(), kWords.end()};
}

}  // namespace meristem
