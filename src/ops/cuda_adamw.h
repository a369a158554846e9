// The CUDA AdamW of kernels/adamw on LibTorch's current stream. cuda_adamw.cpp launches it; no_cuda_adamw.cpp, in builds without CUDA,
// throws.
#pragma once

#include "ops/adamw.h"

namespace meristem::ops {

// Asynchronous on the current stream.
void adamw_fused_cuda(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& settings,
                      double bias1, double bias2_sqrt);

}  // namespace meristem::ops
