// A build that does not link CUDA.
#include "core/errors.h"
#include "step/graphs.h"

namespace meristem {

GraphDevice cuda_graph_device(at::Device) {
  throw InputError("kernels.graph: on needs a build with CUDA (cmake --preset cuda); allowed: off, auto");
}

}  // namespace meristem
