// Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a value is a pure function of (key, counter), so every
// tensor and every permutation has its own stream, and adding a part to a model shifts no other part's numbers.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace meristem {

// A stream key from a seed and a purpose or name, e.g. stream_key(seed, "init/blocks.0.attention.qkv.weight").
std::uint64_t stream_key(std::uint64_t seed, std::string_view name);

// Block `counter` of the stream: four independent uniform 32-bit words.
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter);

// Element `index` of the stream as a uniform 64-bit word.
std::uint64_t random_u64(std::uint64_t key, std::uint64_t index);

// Element `index` of the stream as a uniform double in [0, 1).
double random_uniform(std::uint64_t key, std::uint64_t index);

// Fills out[0, count) with Normal(0, std) by Box-Muller, as the elements from `first` on, a multiple of 4; element i depends on (key, i)
// alone.
void fill_normal(float* out, std::int64_t count, double std, std::uint64_t key, std::int64_t first = 0);

// A pseudo-random permutation of 0 .. size-1 that is computed, not stored: a Feistel network over the next power of two, walked until it
// lands below `size`. Its rounds are blocks of the Philox stream `key`, so place(i) is a pure function of (key, size, i).
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
