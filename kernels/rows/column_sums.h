// The second stage of a gain's gradient: the blocks of the first have left a row of partial sums each, which are added up in their order.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels::detail {

// partials: [rows, slots]. Slot e threads + t is column (e / vector threads + t) vector + e % vector (rows/row.h; vector and threads 1: the
// slot is the column); those beyond `columns` are dropped.
struct ColumnSums {
  const float* partials;
  int rows, slots;
  float* sums;
  int columns, vector, threads;
};

void launch_column_sums(const ColumnSums& p, Stream stream);

}  // namespace meristem::kernels::detail
