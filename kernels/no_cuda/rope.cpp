#include "meristem_kernels/rope.h"

#include "no_cuda/refuse.h"

namespace meristem::kernels {

void rope(const RopeShape&, void*, std::int64_t, float, Stream) { refuse("rope"); }

void qk_norm_rope_forward(const RopeShape&, const QkNorm&, int, const void*, std::int64_t, void*, std::int64_t, Stream) { refuse("rope"); }

void qk_norm_rope_backward(const RopeShape&, const QkNorm&, int, const void*, std::int64_t, const void*, std::int64_t, void*, std::int64_t,
                           float*, float*, Stream) {
  refuse("rope");
}

}  // namespace meristem::kernels
