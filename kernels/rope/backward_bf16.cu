#include "rope/backward.h"

namespace meristem::kernels::detail {

template void launch_qk_norm_rope_backward<Bf16>(const RopeParameters<Bf16>&, float*, Stream);

}  // namespace meristem::kernels::detail
