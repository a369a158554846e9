#include "swiglu/swiglu.h"

namespace meristem::kernels::detail {

template void launch_swiglu_forward<Bf16>(SwigluParameters<Bf16>, Stream);
template void launch_swiglu_backward<Bf16>(SwigluParameters<Bf16>, Stream);

}  // namespace meristem::kernels::detail
