// What the cross-entropy kernel is launched with.
#pragma once

#include "meristem_kernels/cross_entropy.h"

namespace meristem::kernels::detail {

template <class X>
struct CrossEntropyParameters {
  std::int64_t rows;
  int vocab;
  bool with_gradient;
  X* logits;
  const std::int32_t* targets;
  float* losses;
};

// The instantiations of the .cu files.
template <class X>
void launch_cross_entropy(const CrossEntropyParameters<X>& p, Stream stream);

}  // namespace meristem::kernels::detail
