#include "rms_norm/backward.h"

namespace meristem::kernels::detail {

template void launch_rms_norm_backward<float>(const RmsNormBackward<float>&, Stream);

}  // namespace meristem::kernels::detail
