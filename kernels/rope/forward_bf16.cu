#include "rope/forward.h"

namespace meristem::kernels::detail {

template void launch_rope<Bf16>(const RopeParameters<Bf16>&, Stream);
template void launch_qk_norm_rope<Bf16>(const RopeParameters<Bf16>&, Stream);

}  // namespace meristem::kernels::detail
