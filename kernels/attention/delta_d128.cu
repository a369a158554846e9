#include "attention/delta.h"

namespace meristem::kernels::detail {

template void launch_attention_delta<128>(const BackwardParameters&, Stream);

}  // namespace meristem::kernels::detail
