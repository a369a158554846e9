#include "meristem_kernels/attention.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void attention_forward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionOutput, float*, Stream) {
  detail::refuse("attention");
}

void attention_backward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionInput, AttentionInput, const float*,
                        float*, AttentionOutput, AttentionOutput, AttentionOutput, Stream) {
  detail::refuse("attention");
}

}  // namespace meristem::kernels
