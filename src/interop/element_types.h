// Between fp32, in which this project keeps weights, and the types of other projects' files.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/safetensors.h"

namespace meristem {

// Elements as float, exactly: F32, BF16 or F16. InputError that names `file` and the tensor for any other type.
// out.size() must be the tensor's number of elements.
void widen(const TensorView& tensor, const std::string& file, std::span<float> out);

// Rounded to nearest even into `out` (dtype_bytes(dtype) an element): F32, BF16 or F16. Values that `widen` made come back bit for bit.
// Returns how many finite values became infinite.
std::int64_t narrow(std::span<const float> values, Dtype dtype, std::span<std::byte> out);

}  // namespace meristem
