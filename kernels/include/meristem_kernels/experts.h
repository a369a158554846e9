// Expert dispatch: which row each token's choices go to, the rows themselves, and the weighted sum of what the experts made of them. The
// host reads nothing: counts and places stay on the device, where a grouped matrix product takes them.
//
// Shapes: N tokens, k choices of each (choice n * k + j is token n's j-th), M = N * k, E experts, D width. Rows are bf16 as 16-bit words,
// weights fp32; fp32 inside. Equal bits on every run: each element has one writer, and sums have a fixed order.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

inline constexpr int kExpertsMost = 4096;  // E at most

// M at most 2^30; D a multiple of 8. Matrices [N, D] and [M, D] are dense and aligned to 16 bytes. std::invalid_argument where not.
struct ExpertShape {
  int tokens, choices, experts, width;
};

// Integers of scratch that expert_sort needs.
std::int64_t expert_sort_scratch(const ExpertShape& shape);

// The choices sorted by expert, in the order of the choices within one. chosen [N, k], each in [0, E) (not checked). place [M]: the row
// that each choice stands at after sorting; ends [E]: one behind each expert's last row (so the last is M). Three launches.
void expert_sort(const ExpertShape& shape, const std::int64_t* chosen, std::int32_t* scratch, std::int32_t* place, std::int32_t* ends,
                 Stream stream);

// rows[place[n, j]] = x[n]. x [N, D] is read once, rows [M, D] written once.
void expert_gather(const ExpertShape& shape, const std::uint16_t* x, const std::int32_t* place, std::uint16_t* rows, Stream stream);

// y[n] = sum over j = 0, 1, … of weights[n, j] * rows[place[n, j]]; null weights: of the rows themselves, which is expert_gather's
// gradient. rows [M, D], weights [N, k], y [N, D].
void expert_combine(const ExpertShape& shape, const std::uint16_t* rows, const std::int32_t* place, const float* weights, std::uint16_t* y,
                    Stream stream);

// From dy [N, D]: d_rows[place[n, j]] = weights[n, j] * dy[n], d_weights[n, j] = dy[n] . rows[place[n, j]].
void expert_combine_backward(const ExpertShape& shape, const std::uint16_t* dy, const std::uint16_t* rows, const std::int32_t* place,
                             const float* weights, std::uint16_t* d_rows, float* d_weights, Stream stream);

}  // namespace meristem::kernels
