// The instantiations, D = 64 and 128, that the files *_d64.cu and *_d128.cu hold.
#pragma once

#include "attention/parameters.h"

namespace meristem::kernels::detail {

template <int D>
void launch_attention_forward(const ForwardParameters& p, Stream stream);
template <int D>
void launch_attention_delta(const BackwardParameters& p, Stream stream);
template <int D>
void launch_attention_backward_keys(const BackwardParameters& p, Stream stream);
template <int D>
void launch_attention_backward_queries(const BackwardParameters& p, Stream stream);

}  // namespace meristem::kernels::detail
