// The stream that LibTorch's operators on the current device go to, as our kernels take it.
#pragma once

#include "meristem_kernels/device.h"

namespace meristem::ops {

// Null in a build without CUDA.
kernels::Stream current_stream();

}  // namespace meristem::ops
