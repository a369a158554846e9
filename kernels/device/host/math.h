// Fast functions of one number, and bf16. The device's exp2 and log are approximations; here they are the C library's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace meristem::kernels::device {

inline float exp2_fast(float x) { return std::exp2(x); }
inline float log_fast(float x) { return std::log(x); }
inline float divide_fast(float a, float b) { return a / b; }
inline float exp_accurate(float x) { return std::exp(x); }
inline float log_accurate(float x) { return std::log(x); }
inline float square_root(float x) { return std::sqrt(x); }
inline float larger(float a, float b) { return std::fmax(a, b); }

inline float as_float(std::uint32_t word) { return std::bit_cast<float>(word); }
inline std::uint32_t as_word(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float infinity() { return std::numeric_limits<float>::infinity(); }

// Two bf16 in a word, rounded to nearest even; `low` in the lower half.
inline std::uint32_t bf16_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return 0x7FFF;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline std::uint32_t pack_bf16(float low, float high) { return bf16_of(low) | bf16_of(high) << 16; }
inline float low_bf16(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
inline float high_bf16(std::uint32_t word) { return std::bit_cast<float>(word & 0xFFFF0000u); }

inline int count_bits(std::uint32_t word) { return std::popcount(word); }

}  // namespace meristem::kernels::device
