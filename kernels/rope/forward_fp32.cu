#include "rope/forward.h"

namespace meristem::kernels::detail {

template void launch_rope<float>(const RopeParameters<float>&, Stream);
template void launch_qk_norm_rope<float>(const RopeParameters<float>&, Stream);

}  // namespace meristem::kernels::detail
