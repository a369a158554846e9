#include "data/permutation.h"

#include <bit>
#include <stdexcept>

#include "core/counter_rng.h"

namespace meristem {

Permutation::Permutation(std::uint64_t key, std::int64_t size) : key_(key), size_(size) {
  if (size < 1) throw std::invalid_argument("Permutation: size must be positive");
  const int bits = std::bit_width(static_cast<std::uint64_t>(size - 1));
  low_bits_ = bits / 2;
  high_bits_ = bits - low_bits_;
}

std::int64_t Permutation::operator()(std::int64_t place) const {
  auto value = static_cast<std::uint64_t>(place);
  // The network permutes fewer than 2 * size values, so this takes less than two rounds on average, and it ends: the cycle that `place`
  // lies on comes back to it.
  do value = shuffle(value);
  while (value >= static_cast<std::uint64_t>(size_));
  return static_cast<std::int64_t>(value);
}

std::uint64_t Permutation::shuffle(std::uint64_t value) const {
  constexpr std::uint64_t kRounds = 6;
  const std::uint64_t low_mask = (std::uint64_t{1} << low_bits_) - 1, high_mask = (std::uint64_t{1} << high_bits_) - 1;
  std::uint64_t low = value & low_mask, high = value >> low_bits_;
  for (std::uint64_t round = 0; round < kRounds; round += 2) {
    // One half is changed by a function of the other: each line can be undone, whatever the function.
    high ^= philox(key_, (low << 3) | round)[0] & high_mask;
    low ^= philox(key_, (high << 3) | (round + 1))[0] & low_mask;
  }
  return (high << low_bits_) | low;
}

}  // namespace meristem
