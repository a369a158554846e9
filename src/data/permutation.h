// A pseudo-random permutation of 0 .. size-1 that is computed, not stored.
#pragma once

#include <cstdint>

namespace meristem {

// A Feistel network over the next power of two, walked until it lands below `size`. Its rounds are blocks of the Philox stream `key`, so
// place(i) is a pure function of (key, size, i).
class Permutation {
 public:
  Permutation(std::uint64_t key, std::int64_t size);  // size >= 1
  std::int64_t size() const { return size_; }
  std::int64_t operator()(std::int64_t place) const;

 private:
  std::uint64_t key_;
  std::int64_t size_;
  int low_bits_ = 0, high_bits_ = 0;

  std::uint64_t shuffle(std::uint64_t value) const;
};

}  // namespace meristem
