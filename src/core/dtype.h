// The element types that files and plans know. Free of LibTorch, so that file formats can be tested without it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace meristem {

enum class Dtype : std::uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

// What safetensors files call a type, and the bytes of one element.
struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  std::size_t bytes;
};
inline constexpr std::array<DtypeRow, 10> kDtypes{{{Dtype::kF64, "F64", 8},
                                                   {Dtype::kF32, "F32", 4},
                                                   {Dtype::kF16, "F16", 2},
                                                   {Dtype::kBF16, "BF16", 2},
                                                   {Dtype::kI64, "I64", 8},
                                                   {Dtype::kI32, "I32", 4},
                                                   {Dtype::kI16, "I16", 2},
                                                   {Dtype::kI8, "I8", 1},
                                                   {Dtype::kU8, "U8", 1},
                                                   {Dtype::kBool, "BOOL", 1}}};

constexpr std::size_t dtype_bytes(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)].bytes; }
constexpr std::string_view dtype_name(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)].name; }
// Inverse of dtype_name. False where the name is unknown.
constexpr bool parse_dtype(std::string_view name, Dtype& out) {
  for (const DtypeRow& row : kDtypes) {
    if (row.name != name) continue;
    out = row.dtype;
    return true;
  }
  return false;
}

}  // namespace meristem
