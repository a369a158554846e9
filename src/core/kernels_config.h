// `kernels:` of a run's YAML. Here and not in config/, so that ops/ can read it without knowing runs.
#pragma once

#include <string>

namespace meristem {

// The path of each operator: reference | library | fused | auto (ops/paths.h).
struct KernelsConfig {
  std::string attention = "auto", cross_entropy = "auto", adamw = "auto", rms_norm = "auto", rope = "auto", swiglu = "auto",
              depth_attention = "auto", experts = "auto";
  std::string graph = "auto";  // off | on | auto: the step as captured CUDA graphs (train/graph_step.h)
};

}  // namespace meristem
