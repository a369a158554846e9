#include "depth_attention/forward.h"

namespace meristem::kernels::detail {

template void launch_depth_forward<4, 1>(const DepthForwardParameters&, Stream);

}  // namespace meristem::kernels::detail
