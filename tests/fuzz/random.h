// The fuzzer's dice: every draw is a function of (seed, format, case, draw), so that a case can be played again alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/counter_rng.h"

namespace meristem::fuzz {

class Dice {
 public:
  Dice(std::int64_t seed, const std::string& format, std::int64_t number)
      : key_(stream_key(static_cast<std::uint64_t>(seed) * 0x9E3779B97F4A7C15ull + static_cast<std::uint64_t>(number), "fuzz " + format)) {}

  std::uint64_t word() { return random_u64(key_, counter_++); }
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : static_cast<std::size_t>(word() % bound); }
  bool chance(double probability) { return static_cast<double>(word() >> 11) * 0x1p-53 < probability; }
  template <class List>
  const auto& pick(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  std::uint64_t key_, counter_ = 0;
};

}  // namespace meristem::fuzz
