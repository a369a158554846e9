// Stands in for graph_device_cuda.cpp where the build does not link CUDA (MERISTEM_CUDA other than LINK). On a CPU why_no_graph() says no
// before anybody asks for a device; who gets here has a GPU and a program that cannot use it.
#include <fmt/format.h>

#include "core/errors.h"
#include "step/graphs.h"

namespace meristem {

GraphDevice cuda_graph_device(at::Device device) {
  throw InputError(
      fmt::format("kernels.graph: on needs a build with CUDA for device {} (cmake --preset cuda); allowed: off, auto", device.str()));
}

}  // namespace meristem
