// The kernels' symbols in a build without CUDA: callers compile and link the same, and ask available() first.
#include <stdexcept>
#include <string>

#include "meristem_kernels/adamw.h"
#include "meristem_kernels/attention.h"
#include "meristem_kernels/squared_norm.h"
#include "meristem_kernels/stream.h"

namespace meristem::kernels {
namespace {

[[noreturn]] void refuse(const char* kernel) {
  throw std::runtime_error(std::string("kernel ") + kernel + " is not in this build: configure with -DMERISTEM_CUDA=LINK");
}

}  // namespace

bool available() { return false; }

std::string device_name() { return {}; }

void adamw(const AdamwBuffers&, const AdamwSegment*, int, const AdamwConstants&, const float*, const float*, Stream) { refuse("adamw"); }

void attention_forward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionOutput, float*, Stream) {
  refuse("attention");
}

void attention_backward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionInput, AttentionInput, const float*,
                        float*, AttentionOutput, AttentionOutput, AttentionOutput, Stream) {
  refuse("attention");
}

void squared_norm(const float*, std::int64_t, double*, double*, Stream) { refuse("squared_norm"); }

}  // namespace meristem::kernels
