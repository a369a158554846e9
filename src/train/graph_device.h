// The GPU's side of a graphed step: capture, and copies beside the computation.
#pragma once

#include "train/graph_step.h"

namespace meristem {

// Makes a stream of its own the calling thread's current one for good: neither a capture nor the warm-up before it may use the default
// stream, which gradient accumulation would remember. InputError in a build without CUDA.
GraphDevice cuda_graph_device(at::Device device);

}  // namespace meristem
