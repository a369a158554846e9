#include "rms_norm/backward.h"

namespace meristem::kernels::detail {

template void launch_rms_norm_backward<Bf16>(const RmsNormBackward<Bf16>&, Stream);

}  // namespace meristem::kernels::detail
