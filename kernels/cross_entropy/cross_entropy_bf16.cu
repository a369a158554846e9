#include "cross_entropy/cross_entropy.h"

namespace meristem::kernels::detail {

template void launch_cross_entropy<Bf16>(const CrossEntropyParameters<Bf16>&, Stream);

}  // namespace meristem::kernels::detail
