#include "depth_attention/backward.h"

namespace meristem::kernels::detail {

template void launch_depth_backward<4, 1>(const DepthBackwardParameters&, Stream);

}  // namespace meristem::kernels::detail
