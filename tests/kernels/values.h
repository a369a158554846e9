// Numbers and comparisons that the kernels' tests share, on the CPU layer and on a GPU. No test framework: the programs of mutants use them
// too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "meristem_kernels/device.h"

namespace meristem::test {

using Bf16 = std::uint16_t;

// The kernels' name for the element type X.
template <class X>
constexpr kernels::Element kElement = sizeof(X) == 4 ? kernels::Element::kFloat : kernels::Element::kBf16;

inline std::size_t as_size(std::int64_t n) { return static_cast<std::size_t>(n); }

inline float value_of(float x) { return x; }
inline float value_of(Bf16 bf16) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bf16) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// x in the type of an array's elements; bf16 is rounded to nearest, ties to even.
template <class X>
X element_of(double x) {
  const float narrow = static_cast<float>(x);
  if constexpr (sizeof(X) == 4) {
    return narrow;
  } else {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &narrow, sizeof bits);
    return static_cast<X>(narrow != narrow ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
}

// Rounded as a kernel that stores X rounds, where the reference is to have the kernel's precision; the fp64 one (the truth) never rounds.
template <class X, class Real>
Real stored(Real x) {
  if constexpr (sizeof(Real) == 8) {
    return x;
  } else {
    return value_of(element_of<X>(x));
  }
}

// Numbers of a standard normal times `factor`.
template <class Array>
void fill_normal(Array& array, unsigned seed, double factor = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  for (auto& x : array) x = element_of<std::decay_t<decltype(x)>>(factor * normal(random));
}

template <class Array>
std::vector<double> values_of(const Array& array) {
  std::vector<double> values;
  for (const auto& x : array) values.push_back(value_of(x));
  return values;
}

// Whether elements [begin, end) still hold the poison (0xFF) that buffers start with.
template <class Array>
bool untouched(const Array& array, std::int64_t begin, std::int64_t end) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(array.data() + begin);
  return std::all_of(bytes, bytes + as_size(end - begin) * sizeof(array[0]), [](unsigned char byte) { return byte == 0xFF; });
}

// Whether two buffers hold the same bits.
template <class Array>
bool same_bits(const Array& a, const Array& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
}

inline double norm(const std::vector<double>& a) {
  double sum = 0;
  for (const double x : a) sum += x * x;
  return std::sqrt(sum);
}

// |a - truth| of each row of `columns` elements.
inline std::vector<double> row_distances(const std::vector<double>& a, const std::vector<double>& truth, int columns) {
  std::vector<double> sums(truth.size() / static_cast<std::size_t>(columns));
  for (std::size_t i = 0; i < truth.size(); ++i) sums[i / static_cast<std::size_t>(columns)] += (a[i] - truth[i]) * (a[i] - truth[i]);
  for (double& sum : sums) sum = std::sqrt(sum);
  return sums;
}
// As a whole, for problems of few rows.
inline double distance(const std::vector<double>& a, const std::vector<double>& truth) { return norm(row_distances(a, truth, 1)); }

// NaN where an element is.
inline double largest_error(const std::vector<double>& a, const std::vector<double>& truth) {
  double largest = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double error = std::abs(a[i] - truth[i]);
    if (!(error <= largest) && !std::isnan(largest)) largest = error;
  }
  return largest;
}

struct Verdict {
  std::string wrong;  // empty: as it should be
  double worst = 0;   // the largest error in units of the same-precision reference's
};

// reference: the same-precision error, and what a rounding in fp32 may cost.
inline void compare(Verdict& verdict, const std::string& what, double error, double reference, double allowed) {
  verdict.worst = std::max(verdict.worst, reference == 0 ? (error == 0 ? 0 : 1e9) : error / reference);
  if (!(error <= allowed * reference)) {  // written so that a NaN is wrong
    verdict.wrong += what + ": error " + std::to_string(error) + ", same-precision reference " + std::to_string(reference) + "; ";
  }
}

// Says what is wrong with `found`, empty where nothing is: in length and in its largest element, the error must be at most `times` that of
// `same`, a reference of the same precision. slack: what one rounding in fp32 may cost.
inline std::string worse_than(const char* name, const std::vector<double>& found, const std::vector<double>& same,
                              const std::vector<double>& truth, double times, double slack = 0) {
  double error = 0, allowed = 0, largest = 0, largest_allowed = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double e = std::abs(found[i] - truth[i]), a = std::abs(same[i] - truth[i]) + slack;
    error += e * e;
    allowed += a * a;
    if (!(e <= largest) && largest == largest) largest = e;  // a NaN is the largest and stays it
    largest_allowed = std::max(largest_allowed, a);
  }
  error = std::sqrt(error);
  allowed = times * std::sqrt(allowed);
  largest_allowed *= times;
  if (error <= allowed && largest <= largest_allowed) return {};
  return std::string(name) + ": error " + std::to_string(error) + ", allowed " + std::to_string(allowed) + "; largest " +
         std::to_string(largest) + ", allowed " + std::to_string(largest_allowed) + "; ";
}

}  // namespace meristem::test
