// Cross-entropy of a chunk of logits: a block owns a row and goes over it twice, first for the largest and the sum of exponentials, then to
// overwrite it with the gradient. The second reading finds most of the row in the caches.
#include "meristem_kernels/cross_entropy.h"

#include "rows/dispatch.h"
#include "rows/elements.h"

namespace meristem::kernels {
namespace detail {

template <class X>
struct CrossEntropyParameters {
  std::int64_t rows;
  int vocab;
  bool with_gradient;
  X* logits;
  const std::int32_t* targets;
  float* losses;
};

// The largest of the numbers seen so far and the sum of their exponentials relative to it (Milakov & Gimelshein, 2018).
struct RunningSum {
  float max, sum;
};

MERISTEM_DEVICE RunningSum nothing_seen() { return {-device::infinity(), 0.0f}; }

// What exponents are taken relative to: nothing but -infinity has no largest.
MERISTEM_DEVICE float shift_of(float max) { return max == -device::infinity() ? 0.0f : max; }

template <class X>
MERISTEM_DEVICE RunningSum merged(const RunningSum& a, const RunningSum& b) {
  const float max = device::larger(a.max, b.max), shift = shift_of(max);
  return {max, a.sum * exp_for<X>(a.max - shift) + b.sum * exp_for<X>(b.max - shift)};
}

// Takes in the elements of one access: one rescaling for all of them.
template <class X, int V>
MERISTEM_DEVICE void take_in(RunningSum& state, const Held<X, V, V>& x) {
  float max = state.max;
  MERISTEM_UNROLL
  for (int j = 0; j < V; ++j) max = device::larger(max, x[j]);
  const float shift = shift_of(max);
  state.sum *= exp_for<X>(state.max - shift);
  MERISTEM_UNROLL
  for (int j = 0; j < V; ++j) state.sum += exp_for<X>(x[j] - shift);
  state.max = max;
}

// That of all threads, for all of them. scratch: 8 bytes a warp.
template <class X, int threads>
MERISTEM_DEVICE RunningSum block_running_sum(RunningSum state, device::SharedAddress scratch) {
  MERISTEM_UNROLL
  for (int lanes = device::kWarp / 2; lanes > 0; lanes /= 2) {
    const RunningSum other{device::shuffle_xor(state.max, lanes), device::shuffle_xor(state.sum, lanes)};
    state = merged<X>(state, other);
  }
  const auto place = [&](int warp) { return scratch + static_cast<device::SharedAddress>(warp * 8); };
  if (device::lane_index() == 0) {
    device::sts(place(device::warp_index()), state.max);
    device::sts(place(device::warp_index()) + 4, state.sum);
  }
  device::barrier();
  state = nothing_seen();
  MERISTEM_UNROLL
  for (int warp = 0; warp < threads / device::kWarp; ++warp) {
    state = merged<X>(state, {device::lds<float>(place(warp)), device::lds<float>(place(warp) + 4)});
  }
  return state;
}

inline constexpr int kCrossEntropyThreads = 512;
inline constexpr int kCrossEntropyShared = kCrossEntropyThreads / device::kWarp * 8;

inline constexpr int kLoadsAtOnce = 4;  // of 16 bytes, in flight before the first is looked at

// Calls visit.operator()<V>(column, elements) so that the threads together pass every column once: 16 bytes at a time between the first and
// the last 16-byte boundary of the row, one element at the ends. Rows of an odd vocabulary begin anywhere. Without `reads` nothing is
// loaded.
template <bool reads, class X, class Visit>
MERISTEM_DEVICE void walk_row(device::gptr<X> row, int columns, const Visit& visit) {
  constexpr int V = kVector<X>;
  const int past = static_cast<int>(reinterpret_cast<std::uintptr_t>(row.raw) % 16 / sizeof(X)), thread = device::thread_index();
  const int wanted = past == 0 ? 0 : V - past, head = wanted < columns ? wanted : columns;
  const int vectors = (columns - head) / V, tail = head + vectors * V;
  const auto load = [&]<int W>(Held<X, W, W>& to, int column) {
    if constexpr (reads) to.raw[0] = device::ldg<Access<X, W>>(row + column);
  };
  const auto alone = [&]<int W>(int column) {
    Held<X, W, W> x;
    load(x, column);
    visit.template operator()<W>(column, x);
  };
  int i = thread;
  for (; i + (kLoadsAtOnce - 1) * kCrossEntropyThreads < vectors; i += kLoadsAtOnce * kCrossEntropyThreads) {
    device::Registers<Held<X, V, V>, kLoadsAtOnce> x;
    MERISTEM_UNROLL
    for (int u = 0; u < kLoadsAtOnce; ++u) load(x[u], head + (i + u * kCrossEntropyThreads) * V);
    MERISTEM_UNROLL
    for (int u = 0; u < kLoadsAtOnce; ++u) visit.template operator()<V>(head + (i + u * kCrossEntropyThreads) * V, x[u]);
  }
  for (; i < vectors; i += kCrossEntropyThreads) alone.template operator()<V>(head + i * V);
  if (thread < head) alone.template operator()<1>(thread);
  if (tail + thread < columns) alone.template operator()<1>(tail + thread);
}

template <class X>
MERISTEM_KERNEL(kCrossEntropyThreads, 2)
cross_entropy_kernel(const MERISTEM_GRID_CONSTANT CrossEntropyParameters<X> p) {
  const std::int64_t index = device::block_index();
  const device::gptr<X> row = device::gptr<X>(p.logits) + index * p.vocab;
  const int target = device::ldg<std::int32_t>(device::gptr<const std::int32_t>(p.targets) + index);
  const bool first = device::thread_index() == 0;
  if (target < 0) {
    if (first) device::stg(device::gptr<float>(p.losses) + index, 0.0f);
    if (p.with_gradient)
      walk_row<false>(row, p.vocab, [&]<int V>(int column, const Held<X, V, V>&) { device::stg(row + column, Access<X, V>{}); });
    return;
  }
  RunningSum state = nothing_seen();
  walk_row<true>(row, p.vocab, [&]<int V>(int, const Held<X, V, V>& x) { take_in<X, V>(state, x); });
  float target_logit = device::infinity() - device::infinity();
  if (first && target < p.vocab) {  // before the barrier: beyond it, the gradient takes its place
    Held<X, 1, 1> x;
    x.raw[0] = device::ldg<X>(row + target);
    target_logit = x[0];
  }
  state = block_running_sum<X, kCrossEntropyThreads>(state, device::shared_base());
  // The logarithm of the sum is kept apart from the largest: beside a large one it would lose its digits.
  const float log_sum = device::log_accurate(state.sum);
  if (first) device::stg(device::gptr<float>(p.losses) + index, log_sum - (target_logit - state.max));
  if (!p.with_gradient) return;
  walk_row<true>(row, p.vocab, [&]<int V>(int column, const Held<X, V, V>& x) {
    device::stg(row + column,
                packed<X, V>([&](int j) { return exp_for<X>(x[j] - state.max - log_sum) - (column + j == target ? 1.0f : 0.0f); }));
  });
}

template <class X>
void launch_cross_entropy(const CrossEntropyParameters<X>& p, Stream stream) {
  device::launch("cross_entropy", cross_entropy_kernel<X>, p.rows, kCrossEntropyThreads, kCrossEntropyShared, stream, p);
}

}  // namespace detail

void cross_entropy(const CrossEntropyShape& shape, void* logits, const std::int32_t* targets, float* losses, bool with_gradient,
                   Stream stream) {
  detail::require(shape.rows >= 0 && shape.vocab >= 1, "cross_entropy", "a count that is not allowed");
  detail::with_element(shape.element, [&]<class X>() {
    detail::launch_cross_entropy<X>({shape.rows, shape.vocab, with_gradient, detail::as<X>(logits), targets, losses}, stream);
  });
}

}  // namespace meristem::kernels
