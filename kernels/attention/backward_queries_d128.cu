#include "attention/backward_queries.h"

namespace meristem::kernels::detail {

template void launch_attention_backward_queries<128>(const BackwardParameters&, Stream);

}  // namespace meristem::kernels::detail
