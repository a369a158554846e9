// How far a result is from the truth, as a whole, for kernels whose problems have few rows.
#pragma once

#include <vector>

#include "kernels/attention/check.h"

namespace meristem::test {

inline double distance(const std::vector<double>& a, const std::vector<double>& truth) { return norm(row_distances(a, truth, 1)); }

}  // namespace meristem::test
