#include "cross_entropy/cross_entropy.h"

namespace meristem::kernels::detail {

template void launch_cross_entropy<float>(const CrossEntropyParameters<float>&, Stream);

}  // namespace meristem::kernels::detail
