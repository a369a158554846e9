#include "meristem_kernels/depth_attention.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void depth_attention_forward(const DepthAttentionShape&, DepthInput, const DepthInput*, const DepthInput*, DepthOutput, DepthLogSumExp,
                             Stream) {
  refuse("depth_attention");
}

void depth_attention_join(const DepthAttentionShape&, DepthInput, const DepthInput*, const DepthInput*, DepthOutput, DepthLogSumExp,
                          Stream) {
  refuse("depth_attention");
}

void depth_attention_backward(const DepthAttentionShape&, DepthInput, const DepthInput*, const DepthInput*, DepthInput, DepthInput,
                              DepthLogSumExp, DepthOutput, DepthGradient, const DepthEntryGradient*, const DepthEntryGradient*, Stream) {
  refuse("depth_attention");
}

}  // namespace meristem::kernels
