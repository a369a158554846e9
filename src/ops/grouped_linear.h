// A linear map for each group of rows: the product behind experts, without padding.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

// M rows sorted by group; group e holds rows [ends[e-1], ends[e]).
struct Groups {
  at::Tensor ends_E;               // int32, cumulative, on the rows' device
  std::vector<std::int64_t> ends;  // the same on the host; empty where one operator takes all groups
};
// counts_E: int64, rows of each group. like: a tensor of the rows' type and device, which decide what will run.
Groups groups_of(const at::Tensor& counts_E, const at::Tensor& like);
// ends_E: int32, as Groups has them.
Groups groups_ending_at(const at::Tensor& ends_E, const at::Tensor& like);

// x_MI [M, I], weight_EOI [E, O, I] -> [M, O]: row m times its group's matrix, transposed. Differentiable in both; groups without a row
// receive a zero gradient.
at::Tensor grouped_linear(const at::Tensor& x_MI, const at::Tensor& weight_EOI, const Groups& groups);

}  // namespace meristem::ops
