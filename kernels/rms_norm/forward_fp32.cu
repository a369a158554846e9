#include "rms_norm/forward.h"

namespace meristem::kernels::detail {

template void launch_rms_norm_forward<float>(const RmsNormForward<float>&, Stream);

}  // namespace meristem::kernels::detail
