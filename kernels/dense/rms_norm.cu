// RMSNorm. Forward: a row is read once, kept in registers, and written; its threads meet once. Backward: dy and h are read once; a block
// walks over many rows and keeps its part of the gain's gradient in registers, so that there is one row of partial sums a block and no
// atomic addition.
#include "meristem_kernels/rms_norm.h"

#include <string>

#include "rows/dispatch.h"
#include "rows/row.h"

namespace meristem::kernels {
namespace detail {

template <class X>
struct RmsNormForward {
  std::int64_t rows;
  int width;
  bool vectorised;  // whole rows of 16-byte accesses
  float eps;
  const X *x, *update;
  const float* gain;
  X *h, *y;
  float* rstd;
};

template <class X>
struct RmsNormBackward {
  std::int64_t rows;
  int width;
  bool vectorised;
  const X *dy, *h, *dh;
  const float *gain, *rstd;
  X* dx;
  float *d_gain, *partials;
};

template <class X, int V, int threads>
MERISTEM_KERNEL(kRowThreads, V == 1 ? 1 : 3)  // single elements need a predicate each, and more registers
rms_norm_forward_kernel(const MERISTEM_GRID_CONSTANT RmsNormForward<X> p) {
  constexpr int kRows = kRowThreads / threads, kAccesses = kRowElements / V;
  const std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRows + device::thread_index() / threads;
  const int width = row < p.rows ? p.width : 0;
  const std::int64_t begin = row * p.width;
  Held<X, V, kRowElements> h;
  load_row<V, threads>(h, device::gptr<const X>(p.x) + begin, width);
  if (p.update != nullptr) {
    Held<X, V, kRowElements> update;
    load_row<V, threads>(update, device::gptr<const X>(p.update) + begin, width);
    MERISTEM_UNROLL
    for (int i = 0; i < kAccesses; ++i) {
      h.raw[i] = packed<X, V>([&](int j) { return h[i * V + j] + update[i * V + j]; });
      const int column = column_of<V, threads>(i);
      if (column < width) device::stg(device::gptr<X>(p.h) + (begin + column), h.raw[i]);
    }
  }
  float squares = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < kRowElements; ++i) squares += h[i] * h[i];
  squares = group_sum<threads>(squares, device::shared_base());
  const float rstd = 1.0f / device::square_root(squares / static_cast<float>(p.width) + p.eps);
  if (row < p.rows && device::thread_index() % threads == 0) device::stg(device::gptr<float>(p.rstd) + row, rstd);
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, device::gptr<const float>(p.gain) + column);
    device::stg(device::gptr<X>(p.y) + (begin + column), packed<X, V>([&](int j) { return h[i * V + j] * rstd * gain[j]; }));
  }
}

template <class X>
void launch_rms_norm_forward(const RmsNormForward<X>& p, Stream stream) {
  with_row_share<X>(p.vectorised, p.width, [&]<int V, int threads>() {
    constexpr int kRows = kRowThreads / threads;
    device::launch("rms_norm_forward", rms_norm_forward_kernel<X, V, threads>, (p.rows + kRows - 1) / kRows, kRowThreads,
                   kRowThreads / device::kWarp * 4, stream, p);
  });
}

using GainSums = device::Registers<float, kRowElements>;

// Shared memory: two turns of the rows' sums, then each thread's GainSums.
inline constexpr int kRmsNormTurn = kRowThreads / device::kWarp * 4;
inline constexpr int kRmsNormBackwardShared = 2 * kRmsNormTurn + kRowThreads * kRowElements * 4;

// One row: writes its dx and adds to the thread's sums. scratch: this turn's.
template <class X, int V, int threads>
MERISTEM_DEVICE void rms_norm_backward_row(const RmsNormBackward<X>& p, std::int64_t row, device::SharedAddress scratch, GainSums& d_gain) {
  constexpr int kAccesses = kRowElements / V;
  const int width = row < p.rows ? p.width : 0;
  const std::int64_t begin = row * p.width;
  const device::gptr<const float> gains(p.gain);
  Held<X, V, kRowElements> h, dy;
  load_row<V, threads>(h, device::gptr<const X>(p.h) + begin, width);
  load_row<V, threads>(dy, device::gptr<const X>(p.dy) + begin, width);
  const float rstd = row < p.rows ? device::ldg<float>(device::gptr<const float>(p.rstd) + row) : 0.0f;
  float dot = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, gains + column);
    MERISTEM_UNROLL
    for (int j = 0; j < V; ++j) dot += gain[j] * dy[i * V + j] * h[i * V + j];
  }
  const float mean = group_sum<threads>(dot, scratch) * rstd * rstd / static_cast<float>(p.width);
  MERISTEM_UNROLL
  for (int i = 0; i < kAccesses; ++i) {
    MERISTEM_UNROLL
    for (int j = 0; j < V; ++j) d_gain[i * V + j] += dy[i * V + j] * h[i * V + j] * rstd;
    const int column = column_of<V, threads>(i);
    if (column >= width) continue;
    Floats<V> gain;
    load_floats(gain, gains + column);
    Held<X, V, V> dh;
    dh.raw[0] = p.dh == nullptr ? Access<X, V>{} : device::ldg<Access<X, V>>(device::gptr<const X>(p.dh) + (begin + column));
    device::stg(device::gptr<X>(p.dx) + (begin + column),
                packed<X, V>([&](int j) { return dh[j] + rstd * (gain[j] * dy[i * V + j] - h[i * V + j] * mean); }));
  }
}

// The block's sums over its groups of threads become its row of partials, slot by slot (ColumnSums).
template <int threads>
MERISTEM_DEVICE void write_gain_sums(const GainSums& d_gain, device::SharedAddress shared, float* partials) {
  constexpr int kSlots = threads * kRowElements;
  const device::gptr<float> to = device::gptr<float>(partials) + static_cast<std::int64_t>(device::block_index()) * kSlots;
  const int thread = device::thread_index() % threads, group = device::thread_index() / threads;
  const auto place = [&](int of_group, int slot) { return shared + static_cast<device::SharedAddress>((of_group * kSlots + slot) * 4); };
  MERISTEM_UNROLL
  for (int e = 0; e < kRowElements; ++e) device::sts(place(group, e * threads + thread), d_gain[e]);
  device::barrier();
  for (int slot = device::thread_index(); slot < kSlots; slot += kRowThreads) {
    float sum = 0;
    MERISTEM_UNROLL
    for (int g = 0; g < kRowThreads / threads; ++g) sum += device::lds<float>(place(g, slot));
    device::stg(to + slot, sum);
  }
}

template <class X, int V, int threads>
MERISTEM_KERNEL(kRowThreads, V == 1 ? 1 : 2)
rms_norm_backward_kernel(const MERISTEM_GRID_CONSTANT RmsNormBackward<X> p) {
  constexpr int kRows = kRowThreads / threads;
  const int group = device::thread_index() / threads;
  GainSums d_gain;
  MERISTEM_UNROLL
  for (int e = 0; e < kRowElements; ++e) d_gain[e] = 0;
  device::SharedAddress turn = 0;
  for (std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kRows; row < p.rows;
       row += static_cast<std::int64_t>(device::block_count()) * kRows) {
    rms_norm_backward_row<X, V, threads>(p, row + group, device::shared_base() + turn, d_gain);
    turn ^= kRmsNormTurn;
  }
  write_gain_sums<threads>(d_gain, device::shared_base() + 2 * kRmsNormTurn, p.partials);
}

template <class X>
void launch_rms_norm_backward(const RmsNormBackward<X>& p, Stream stream) {
  with_row_share<X>(p.vectorised, p.width, [&]<int V, int threads>() {
    constexpr int kRows = kRowThreads / threads;
    const std::int64_t wanted = (p.rows + kRows - 1) / kRows;
    const int blocks = walking_blocks(wanted, kRmsNormPartials);
    device::launch("rms_norm_backward", rms_norm_backward_kernel<X, V, threads>, blocks, kRowThreads, kRmsNormBackwardShared, stream, p);
    launch_column_sums({p.partials, blocks, threads * kRowElements, p.d_gain, p.width, V, threads}, stream);
  });
}

inline void check_rms_norm(const RmsNormShape& shape) {
  require(shape.rows >= 0 && shape.width >= 1 && shape.width <= kRmsNormMaxWidth, "rms_norm",
          std::to_string(shape.rows) + " rows of width " + std::to_string(shape.width) + "; allowed: widths from 1 to " +
              std::to_string(kRmsNormMaxWidth));
}

}  // namespace detail

void rms_norm_forward(const RmsNormShape& shape, const void* x, const void* update, const float* gain, float eps, void* h, void* y,
                      float* rstd, Stream stream) {
  detail::check_rms_norm(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.width, x, update, gain, h, y);
    detail::launch_rms_norm_forward<X>(
        {shape.rows, shape.width, aligned, eps, detail::as<X>(x), detail::as<X>(update), gain, detail::as<X>(h), detail::as<X>(y), rstd},
        stream);
  });
}

void rms_norm_backward(const RmsNormShape& shape, const void* dy, const void* h, const float* gain, const float* rstd, const void* dh,
                       void* dx, float* d_gain, float* partials, Stream stream) {
  detail::check_rms_norm(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.width, dy, h, gain, dh, dx);
    detail::launch_rms_norm_backward<X>({shape.rows, shape.width, aligned, detail::as<X>(dy), detail::as<X>(h), detail::as<X>(dh), gain,
                                         rstd, detail::as<X>(dx), d_gain, partials},
                                        stream);
  });
}

}  // namespace meristem::kernels
