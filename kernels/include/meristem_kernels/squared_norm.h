// The sum of squares of a flat fp32 array, for gradient norms.
#pragma once

#include <cstdint>

#include "meristem_kernels/stream.h"

namespace meristem::kernels {

inline constexpr int kSquaredNormPartials = 1024;

// *result = sum of values[i]^2 over count elements, summed in double in an order that depends on count alone: equal bits on any device.
// `values` (16-byte aligned), `partials` (kSquaredNormPartials doubles of scratch) and `result` are device memory. An infinity or a NaN
// among the values gives one as the result. Two launches.
void squared_norm(const float* values, std::int64_t count, double* partials, double* result, Stream stream);

}  // namespace meristem::kernels
