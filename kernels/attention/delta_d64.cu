#include "attention/delta.h"

namespace meristem::kernels::detail {

template void launch_attention_delta<64>(const BackwardParameters&, Stream);

}  // namespace meristem::kernels::detail
