// Numbers in registers: functions, bf16, arrays, and the tensor core with its loads, element by element as the PTX ISA's figures of the
// fragments give them. The device's exp2 and log are approximations; here they are the C library's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "device/base.h"
#include "device/host/checked_memory.h"

namespace meristem::kernels::device {

// An array in registers: bounds-checked, and poison (0xFF, a NaN) until written.
template <class T, int N>
struct Registers {
  Registers() {
    if constexpr (std::is_arithmetic_v<T>) std::memset(at, 0xFF, sizeof at);
  }
  T& operator[](int i) { return at[check(i)]; }
  const T& operator[](int i) const { return at[check(i)]; }

 private:
  static int check(int i) {
    if (i < 0 || i >= N) {
      throw host::Report(host::Fault::kBounds, "register array of " + std::to_string(N) + ": index " + std::to_string(i));
    }
    return i;
  }
  T at[N];
};

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

namespace host {

void load_matrices(SharedAddress row, Registers<std::uint32_t, 4>& to, bool transposed, const Site& site);
void store_matrices(SharedAddress row, const Registers<std::uint32_t, 4>& from, const Site& site);
void multiply(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1, const Site& site);

}  // namespace host

// Four 8x8 matrices of 16-bit elements; lanes 8i to 8i + 7 give the rows of matrix i (16 bytes each, aligned).
inline void ldmatrix_x4(Registers<std::uint32_t, 4>& to, SharedAddress row, host::Site site = host::Site::current()) {
  host::load_matrices(row, to, false, site);
}
inline void ldmatrix_x4_trans(Registers<std::uint32_t, 4>& to, SharedAddress row, host::Site site = host::Site::current()) {
  host::load_matrices(row, to, true, site);
}
inline void stmatrix_x4(SharedAddress row, const Registers<std::uint32_t, 4>& from, host::Site site = host::Site::current()) {
  host::store_matrices(row, from, site);
}

// c (16x8, fp32) += a (16x16, bf16, rows) * b (16x8, bf16, columns).
inline void mma_m16n8k16(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1,
                         host::Site site = host::Site::current()) {
  host::multiply(c, a, b0, b1, site);
}

}  // namespace meristem::kernels::device
