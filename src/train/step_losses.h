// Loss sums of a step, on the device until they are read, and the counts of targets that divide them.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/batch.h"

namespace meristem {

class StepLosses {
 public:
  StepLosses(std::size_t sources, at::Device device);

  // Queues the sums of one micro-batch: losses_N by row, and by the rows' source_S (int64, on the device).
  void add(const at::Tensor& losses_N, const at::Tensor& source_S);
  // Counts its targets.
  void count(const HostBatch& host);
  void clear();

  at::Tensor total;      // [] float64
  at::Tensor by_source;  // [sources] float64
  std::vector<std::int64_t> targets_by_source;
  std::int64_t targets = 0;
};

// Nats per target of each source; NaN where the step had none of it. sums: [sources] in host memory.
std::vector<double> loss_by_source(const double* sums, const std::vector<std::int64_t>& targets_by_source);

}  // namespace meristem
