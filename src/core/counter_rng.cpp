#include "core/counter_rng.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <stdexcept>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace meristem {

std::uint64_t stream_key(std::uint64_t seed, std::string_view name) { return XXH3_64bits_withSeed(name.data(), name.size(), seed); }

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter) {
  constexpr std::uint32_t kMul0 = 0xD2511F53, kMul1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  std::array<std::uint32_t, 4> c{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), 0, 0};
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{kMul0} * c[0], p1 = std::uint64_t{kMul1} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1), static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1,
         static_cast<std::uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

std::uint64_t random_u64(std::uint64_t key, std::uint64_t index) {
  const auto words = philox(key, index / 2);
  const std::size_t at = 2 * (index % 2);
  return (std::uint64_t{words[at]} << 32) | words[at + 1];
}

double random_uniform(std::uint64_t key, std::uint64_t index) { return static_cast<double>(random_u64(key, index) >> 11) * 0x1p-53; }

void fill_normal(float* out, std::int64_t count, double std, std::uint64_t key, std::int64_t first) {
  if (first % 4 != 0) throw std::invalid_argument("fill_normal: the first element is a multiple of 4");
  for (std::int64_t base = 0; base < count; base += 4) {
    const auto words = philox(key, static_cast<std::uint64_t>((first + base) / 4));
    std::array<double, 4> normal{};
    for (std::size_t pair = 0; pair < 2; ++pair) {
      // (word + 1) / 2^32 lies in (0, 1], so the logarithm is finite.
      const double radius = std::sqrt(-2.0 * std::log((words[2 * pair] + 1.0) * 0x1p-32));
      const double angle = 2.0 * std::numbers::pi * (words[2 * pair + 1] * 0x1p-32);
      normal[2 * pair] = radius * std::cos(angle);
      normal[2 * pair + 1] = radius * std::sin(angle);
    }
    const std::int64_t here = std::min<std::int64_t>(4, count - base);
    for (std::int64_t i = 0; i < here; ++i) out[base + i] = static_cast<float>(normal[static_cast<std::size_t>(i)] * std);
  }
}

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
