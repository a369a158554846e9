// The instantiations that the files forward_HxC.cu and backward_HxC.cu hold: H query heads of a part (smaller groups leave the rest
// empty), C chunks of 16 bytes a lane (more than one where a head is wider than a warp's 512 bytes).
#pragma once

#include "depth_attention/parameters.h"

namespace meristem::kernels::detail {

template <int heads, int chunks>
void launch_depth_forward(const DepthForwardParameters& p, Stream stream);
template <int heads, int chunks>
void launch_depth_backward(const DepthBackwardParameters& p, Stream stream);

}  // namespace meristem::kernels::detail
