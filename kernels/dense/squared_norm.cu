// The sum of squares in two passes: partial sums of at most kSquaredNormPartials blocks, then their total. Doubles, because a gradient has
// 1e8 elements and its norm decides whether a step is taken.
#include <cstdint>

#include "meristem_kernels/adamw.h"
#include "rows/row.h"

namespace meristem::kernels {
namespace detail {

inline constexpr int kSquaredNormThreads = 256;
inline constexpr int kSquaredNormVector = 4, kSquaredNormInFlight = 4;  // elements of a load; loads of a thread before the first use
// Of a block; below this, one more block costs more than it saves.
inline constexpr std::int64_t kSquaredNormElements = kSquaredNormThreads * kSquaredNormVector * kSquaredNormInFlight;
inline constexpr int kSquaredNormShared = kSquaredNormThreads / device::kWarp * static_cast<int>(sizeof(double));

struct SquaredNormParameters {
  const float* values;
  std::int64_t count;
  double* partials;
  int blocks;  // of the first pass
  double* result;
};

MERISTEM_DEVICE double square(float value) { return static_cast<double>(value) * static_cast<double>(value); }

MERISTEM_DEVICE double squares_of(const device::Vec4& four) {
  return square(device::as_float(four.x[0])) + square(device::as_float(four.x[1])) +
         (square(device::as_float(four.x[2])) + square(device::as_float(four.x[3])));
}

MERISTEM_KERNEL(kSquaredNormThreads, 4)
squared_norm_partials_kernel(const MERISTEM_GRID_CONSTANT SquaredNormParameters p) {
  const std::int64_t vectors = p.count / kSquaredNormVector;
  const std::int64_t thread = static_cast<std::int64_t>(device::block_index()) * kSquaredNormThreads + device::thread_index();
  const std::int64_t stride = static_cast<std::int64_t>(device::block_count()) * kSquaredNormThreads;
  const device::gptr<const float> values(p.values);
  double sum = 0;
  std::int64_t i = thread;
  for (; i + (kSquaredNormInFlight - 1) * stride < vectors; i += kSquaredNormInFlight * stride) {
    device::Registers<device::Vec4, kSquaredNormInFlight> held;
    MERISTEM_UNROLL
    for (int k = 0; k < kSquaredNormInFlight; ++k) held[k] = device::ldg<device::Vec4>(values + (i + k * stride) * kSquaredNormVector);
    MERISTEM_UNROLL
    for (int k = 0; k < kSquaredNormInFlight; ++k) sum += squares_of(held[k]);
  }
  for (; i < vectors; i += stride) sum += squares_of(device::ldg<device::Vec4>(values + i * kSquaredNormVector));
  if (const std::int64_t tail = vectors * kSquaredNormVector + thread; tail < p.count) sum += square(device::ldg<float>(values + tail));
  sum = group_sum<kSquaredNormThreads>(sum, device::shared_base());
  if (device::thread_index() == 0) device::stg(device::gptr<double>(p.partials) + device::block_index(), sum);
}

MERISTEM_KERNEL(kSquaredNormThreads, 4)
squared_norm_total_kernel(const MERISTEM_GRID_CONSTANT SquaredNormParameters p) {
  const device::gptr<double> partials(p.partials);
  double sum = 0;
  for (int i = device::thread_index(); i < p.blocks; i += kSquaredNormThreads) sum += device::ldg<double>(partials + i);
  sum = group_sum<kSquaredNormThreads>(sum, device::shared_base());
  if (device::thread_index() == 0) device::stg(device::gptr<double>(p.result), sum);
}

}  // namespace detail

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
