#include "attention/backward_keys.h"

namespace meristem::kernels::detail {

template void launch_attention_backward_keys<64>(const BackwardParameters&, Stream);

}  // namespace meristem::kernels::detail
