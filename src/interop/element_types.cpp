#include "interop/element_types.h"

#include <bit>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

// bf16 is the upper half of a float.
float float_of_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t bf16_of_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | ((bits & 0xFFFF) != 0 && (bits & 0x7F0000) == 0 ? 1 : 0));
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float float_of_f16(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(fraction), -24), std::bit_cast<float>(sign | 0x3F800000u));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

std::uint16_t f16_of_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) {
    const std::uint32_t fraction = (bits >> 13) & 1023;
    return static_cast<std::uint16_t>(sign | 0x7C00u | (fraction == 0 ? 1u : fraction));
  }
  if (magnitude >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7C00u);  // half-way to 2^16 and above
  // nearbyint rounds to even; below 2^-14 the step is 2^-24, and a carry runs over into the exponent as it should.
  if (magnitude < 0x1p-14f) return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24f)));
  const std::uint32_t rounded = (bits & 0x7FFFFFFF) + 0xFFF + ((bits >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

}  // namespace

void widen(const TensorView& tensor, const std::string& file, std::span<float> out) {
  if (tensor.dtype == Dtype::kF32) {
    std::memcpy(out.data(), tensor.data, out.size_bytes());
    return;
  }
  if (tensor.dtype != Dtype::kBF16 && tensor.dtype != Dtype::kF16) {
    throw InputError(fmt::format("{}: tensor {}: found {}, allowed: F32, BF16, F16 (quantized models cannot be trained on)", file,
                                 tensor.name, dtype_name(tensor.dtype)));
  }
  const auto* bytes = static_cast<const std::byte*>(tensor.data);
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = tensor.dtype == Dtype::kBF16 ? float_of_bf16(bits) : float_of_f16(bits);
  }
}

std::int64_t narrow(std::span<const float> values, Dtype dtype, std::span<std::byte> out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out.data(), values.data(), values.size_bytes());
    return 0;
  }
  std::int64_t overflows = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = dtype == Dtype::kBF16 ? bf16_of_float(values[i]) : f16_of_float(values[i]);
    const float back = dtype == Dtype::kBF16 ? float_of_bf16(bits) : float_of_f16(bits);
    overflows += std::isfinite(values[i]) && !std::isfinite(back);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return overflows;
}

}  // namespace meristem
