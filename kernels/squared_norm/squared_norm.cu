#include "squared_norm/squared_norm.h"

namespace meristem::kernels {

void squared_norm(const float* values, std::int64_t count, double* partials, double* result, Stream stream) {
  const std::int64_t wanted = (count + detail::kSquaredNormElements - 1) / detail::kSquaredNormElements;
  const int blocks = static_cast<int>(wanted < 1 ? 1 : wanted > kSquaredNormPartials ? kSquaredNormPartials : wanted);
  const detail::SquaredNormParameters p{values, count, partials, blocks, result};
  device::launch("squared_norm, first pass", detail::squared_norm_partials_kernel, blocks, detail::kSquaredNormThreads,
                 detail::kSquaredNormShared, stream, p);
  device::launch("squared_norm, second pass", detail::squared_norm_total_kernel, 1, detail::kSquaredNormThreads, detail::kSquaredNormShared,
                 stream, p);
}

}  // namespace meristem::kernels
