#include "core/dtype.h"

#include <array>

namespace meristem {
namespace {

struct Row {
  Dtype dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<Row, 10> kRows{{{Dtype::kF64, "F64", 8},
                                     {Dtype::kF32, "F32", 4},
                                     {Dtype::kF16, "F16", 2},
                                     {Dtype::kBF16, "BF16", 2},
                                     {Dtype::kI64, "I64", 8},
                                     {Dtype::kI32, "I32", 4},
                                     {Dtype::kI16, "I16", 2},
                                     {Dtype::kI8, "I8", 1},
                                     {Dtype::kU8, "U8", 1},
                                     {Dtype::kBool, "BOOL", 1}}};

}  // namespace

std::size_t dtype_bytes(Dtype dtype) { return kRows[static_cast<std::size_t>(dtype)].bytes; }

std::string_view dtype_name(Dtype dtype) { return kRows[static_cast<std::size_t>(dtype)].name; }

bool parse_dtype(std::string_view name, Dtype& out) {
  for (const Row& row : kRows) {
    if (row.name == name) {
      out = row.dtype;
      return true;
    }
  }
  return false;
}

}  // namespace meristem
