#include "rope/backward.h"

namespace meristem::kernels::detail {

template void launch_qk_norm_rope_backward<float>(const RopeParameters<float>&, float*, Stream);

}  // namespace meristem::kernels::detail
