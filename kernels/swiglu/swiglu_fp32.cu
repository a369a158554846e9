#include "swiglu/swiglu.h"

namespace meristem::kernels::detail {

template void launch_swiglu_forward<float>(SwigluParameters<float>, Stream);
template void launch_swiglu_backward<float>(SwigluParameters<float>, Stream);

}  // namespace meristem::kernels::detail
