#include "attention/forward.h"

namespace meristem::kernels::detail {

template void launch_attention_forward<64>(const ForwardParameters&, Stream);

}  // namespace meristem::kernels::detail
