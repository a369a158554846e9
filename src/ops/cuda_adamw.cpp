// The CUDA side of ops in a build that links CUDA.
#include "ops/cuda_adamw.h"

#include <algorithm>
#include <array>

#include <c10/cuda/CUDAStream.h>

#include "meristem_kernels/adamw.h"
#include "ops/proven.h"

namespace meristem::ops {

bool cuda_kernel_linked(std::string_view op) {
  constexpr std::array<std::string_view, 8> kLinked{"adamw",   "attention", "cross_entropy", "depth_attention",
                                                    "experts", "rms_norm",  "rope",          "swiglu"};
  return std::find(kLinked.begin(), kLinked.end(), op) != kLinked.end() && kernels::available();
}

void adamw_fused_cuda(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& settings,
                      double bias1, double bias2_sqrt) {
  kernels::AdamwBuffers buffers;
  buffers.master = segment.master.data_ptr<float>();
  buffers.exp_avg = segment.exp_avg.data_ptr<float>();
  buffers.exp_avg_sq = segment.exp_avg_sq.data_ptr<float>();
  buffers.grad = segment.grad.data_ptr<float>();
  buffers.half = segment.half.defined() ? static_cast<std::uint16_t*>(segment.half.data_ptr()) : nullptr;
  const kernels::AdamwRange whole{0, segment.master.numel(), static_cast<float>(bias1), static_cast<float>(bias2_sqrt),
                                  static_cast<float>(settings.weight_decay)};
  const kernels::AdamwConstants constants{static_cast<float>(settings.beta1), static_cast<float>(settings.beta2),
                                          static_cast<float>(settings.eps)};
  kernels::adamw(buffers, &whole, 1, constants, lr.data_ptr<float>(), grad_scale.data_ptr<float>(),
                 c10::cuda::getCurrentCUDAStream().stream());
}

}  // namespace meristem::ops
