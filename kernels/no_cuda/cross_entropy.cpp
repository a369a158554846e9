#include "meristem_kernels/cross_entropy.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void cross_entropy(const CrossEntropyShape&, void*, const std::int32_t*, float*, bool, Stream) { refuse("cross_entropy"); }

}  // namespace meristem::kernels
