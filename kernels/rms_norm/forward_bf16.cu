#include "rms_norm/forward.h"

namespace meristem::kernels::detail {

template void launch_rms_norm_forward<Bf16>(const RmsNormForward<Bf16>&, Stream);

}  // namespace meristem::kernels::detail
