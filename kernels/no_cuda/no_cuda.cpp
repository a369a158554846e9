// The kernels' symbols in a build without CUDA: callers compile and link the same, and ask available() first.
#include <string>

#include "meristem_kernels/adamw.h"
#include "meristem_kernels/squared_norm.h"
#include "meristem_kernels/stream.h"
#include "no_cuda/refuse.h"

namespace meristem::kernels {

bool available() { return false; }

std::string device_name() { return {}; }

void adamw(const AdamwBuffers&, const AdamwSegment*, int, const AdamwConstants&, const float*, const float*, Stream) { refuse("adamw"); }

void squared_norm(const float*, std::int64_t, double*, double*, Stream) { refuse("squared_norm"); }

}  // namespace meristem::kernels
