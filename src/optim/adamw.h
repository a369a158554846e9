// AdamW over the segments of FlatParameters; state by parameter name, one step count a segment.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/named_tensors.h"
#include "ops/adamw.h"
#include "optim/flat_parameters.h"

namespace meristem {

class AdamW {
 public:
  AdamW(FlatParameters& parameters, const OptimizerConfig& config, ops::Path path);

  // One update with gradients grad() * grad_scale. lr and grad_scale: float32 scalars on the parameters' device.
  void step(const at::Tensor& lr, const at::Tensor& grad_scale);

  // exp_avg.<parameter>, exp_avg_sq.<parameter> (views) and step.<segment> (int64 scalars).
  NamedTensors state() const;
  // DamagedError where a name is missing, unknown, or of another shape.
  void load_state(const NamedTensors& state);

 private:
  FlatParameters& parameters_;
  ops::AdamwSettings settings_;
  ops::Path path_;
  at::Tensor exp_avg_, exp_avg_sq_;
  std::vector<std::int64_t> steps_;  // by segment
};

}  // namespace meristem
