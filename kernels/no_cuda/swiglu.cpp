#include "meristem_kernels/swiglu.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void swiglu_forward(const SwigluShape&, const void*, void*, Stream) { refuse("swiglu"); }

void swiglu_backward(const SwigluShape&, const void*, const void*, void*, Stream) { refuse("swiglu"); }

}  // namespace meristem::kernels
