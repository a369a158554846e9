// Every public function of the kernels in a build that does not link CUDA: callers compile and link the same, and ask available() first.
// There is no other stand-in. A test that runs the kernels' own source on the CPU links that instead of this file.
#include <stdexcept>
#include <string>

#include "meristem_kernels/adamw.h"
#include "meristem_kernels/attention.h"
#include "meristem_kernels/cross_entropy.h"
#include "meristem_kernels/depth_attention.h"
#include "meristem_kernels/device.h"
#include "meristem_kernels/experts.h"
#include "meristem_kernels/rms_norm.h"
#include "meristem_kernels/rope.h"
#include "meristem_kernels/swiglu.h"

namespace meristem::kernels {
namespace {

[[noreturn]] void refuse(const char* kernel) {
  throw std::runtime_error(std::string("kernel ") + kernel + " is not in this build: configure with -DMERISTEM_CUDA=LINK");
}

}  // namespace

bool available() { return false; }

std::string device_name() { return {}; }

int compute_capability() { return 0; }

void adamw(const AdamwBuffers&, const AdamwRange*, int, const AdamwConstants&, const float*, const float*, const float*, Stream) {
  refuse("adamw");
}

void squared_norm(const float*, std::int64_t, double*, double*, Stream) { refuse("squared_norm"); }

void attention_forward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionOutput, float*, Stream) {
  refuse("attention");
}

void attention_backward(const AttentionShape&, AttentionInput, AttentionInput, AttentionInput, AttentionInput, AttentionInput, const float*,
                        float*, float*, AttentionOutput, AttentionOutput, AttentionOutput, Stream) {
  refuse("attention");
}

std::int64_t attention_sums(const AttentionShape&) { refuse("attention"); }

void cross_entropy(const CrossEntropyShape&, void*, const std::int32_t*, float*, bool, Stream) { refuse("cross_entropy"); }

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

std::int64_t expert_sort_scratch(const ExpertShape&) { refuse("experts"); }

void expert_sort(const ExpertShape&, const std::int64_t*, std::int32_t*, std::int32_t*, std::int32_t*, Stream) { refuse("experts"); }

void expert_gather(const ExpertShape&, const std::uint16_t*, const std::int32_t*, std::uint16_t*, Stream) { refuse("experts"); }

void expert_combine(const ExpertShape&, const std::uint16_t*, const std::int32_t*, const float*, std::uint16_t*, Stream) {
  refuse("experts");
}

void expert_combine_backward(const ExpertShape&, const std::uint16_t*, const std::uint16_t*, const std::int32_t*, const float*,
                             std::uint16_t*, float*, Stream) {
  refuse("experts");
}

void rms_norm_forward(const RmsNormShape&, const void*, const void*, const float*, float, void*, void*, float*, Stream) {
  refuse("rms_norm");
}

void rms_norm_backward(const RmsNormShape&, const void*, const void*, const float*, const float*, const void*, void*, float*, float*,
                       Stream) {
  refuse("rms_norm");
}

void rope(const RopeShape&, void*, std::int64_t, float, Stream) { refuse("rope"); }

void qk_norm_rope_forward(const RopeShape&, const QkNorm&, int, const void*, std::int64_t, void*, std::int64_t, Stream) { refuse("rope"); }

void qk_norm_rope_backward(const RopeShape&, const QkNorm&, int, const void*, std::int64_t, const void*, std::int64_t, void*, std::int64_t,
                           float*, float*, Stream) {
  refuse("rope");
}

void swiglu_forward(const SwigluShape&, const void*, void*, Stream) { refuse("swiglu"); }

void swiglu_backward(const SwigluShape&, const void*, const void*, void*, Stream) { refuse("swiglu"); }

}  // namespace meristem::kernels
