// A file of its own: a test may bring the kernels' own source, compiled for the CPU, in its place.
#include "meristem_kernels/attention.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void attention_forward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionOutput, float*, Stream) {
  refuse("attention");
}

void attention_backward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionInput, AttentionInput, const float*,
                        float*, AttentionOutput, AttentionOutput, AttentionOutput, Stream) {
  refuse("attention");
}

}  // namespace meristem::kernels
