#include "meristem_kernels/experts.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

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

}  // namespace meristem::kernels
