// Sixteen-bit types: every value there and back, and rounding against independent oracles.
#include "interop/element_types.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "core/errors.h"
#include "support/catch.h"

namespace {

using namespace meristem;

std::vector<std::uint16_t> narrowed(const std::vector<float>& values, Dtype dtype, std::int64_t* overflows = nullptr) {
  std::vector<std::uint16_t> out(values.size());
  const std::int64_t count = narrow(values, dtype, std::as_writable_bytes(std::span(out)));
  if (overflows != nullptr) *overflows = count;
  return out;
}

std::vector<float> widened(const std::vector<std::uint16_t>& bits, Dtype dtype) {
  std::vector<float> out(bits.size());
  widen({"t", dtype, {static_cast<std::int64_t>(bits.size())}, bits.data()}, "file", out);
  return out;
}

// Of any size and sign, with many near the borders of f16.
std::vector<float> many_floats() {
  std::mt19937 dice(7);
  std::vector<float> values{0.0f,         -0.0f,        65519.99f, 65520.0f, -65536.0f,       0x1p-14f,
                            0x1.ffcp-15f, 0x1.ffep-15f, 0x1p-24f,  0x1p-25f, 0x1.000002p-25f, INFINITY};
  for (int i = 0; i < 200000; ++i) {
    const auto bits = static_cast<std::uint32_t>(dice());
    values.push_back(std::bit_cast<float>(bits));
    values.push_back(std::bit_cast<float>((bits & 0x81FFFFFFu) + (100u << 23)));  // 2^-27 to 2^-12 and up
    values.push_back(std::ldexp(static_cast<float>(dice() % 8192), static_cast<int>(dice() % 40) - 30));
  }
  std::erase_if(values, [](float value) { return std::isnan(value); });
  return values;
}

TEST_CASE("every 16-bit value comes back bit for bit") {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16}) {
    std::vector<std::uint16_t> all(1 << 16);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    CHECK(narrowed(widened(all, dtype), dtype) == all);
  }
}

TEST_CASE("f16 rounds as the compiler's own type") {
  const std::vector<float> values = many_floats();
  const auto bits = narrowed(values, Dtype::kF16);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto half = static_cast<_Float16>(values[i]);
    wrong += std::bit_cast<std::uint16_t>(half) != bits[i];
    wrong += std::bit_cast<std::uint32_t>(widened({bits[i]}, Dtype::kF16)[0]) != std::bit_cast<std::uint32_t>(static_cast<float>(half));
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16 is the nearest, ties to even") {
  const std::vector<float> values = many_floats();
  const auto bits = narrowed(values, Dtype::kBF16);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    const auto below = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(values[i]) >> 16);  // towards zero
    const auto above = static_cast<std::uint16_t>(below + 1);
    const auto exact = [](std::uint16_t b) { return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16)); };
    // The next value after the largest counts as 2^128.
    const double up = std::isinf(exact(above)) ? std::copysign(0x1p128, values[i]) : exact(above);
    const double low = std::fabs(values[i] - exact(below)), high = std::fabs(up - values[i]);
    const std::uint16_t expected = low < high || (low == high && below % 2 == 0) ? below : above;
    wrong += bits[i] != expected;
  }
  CHECK(wrong == 0);
}

TEST_CASE("overflow is counted, other types are refused") {
  std::int64_t overflows = 0;
  narrowed({65504.0f, 65520.0f, -1e30f, INFINITY}, Dtype::kF16, &overflows);
  CHECK(overflows == 2);
  std::vector<float> out(1);
  const std::int8_t byte = 1;
  CHECK_THROWS_AS(widen({"t", Dtype::kI8, {1}, &byte}, "model.safetensors", out), InputError);
}

}  // namespace
