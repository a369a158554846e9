// The element types that files and plans know. Free of LibTorch, so that file formats can be tested without it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace meristem {

enum class Dtype : std::uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

// Bytes of one element.
std::size_t dtype_bytes(Dtype dtype);
// The safetensors name: "F32", "BF16", …
std::string_view dtype_name(Dtype dtype);
// Inverse of dtype_name. False where the name is unknown.
bool parse_dtype(std::string_view name, Dtype& out);

}  // namespace meristem
