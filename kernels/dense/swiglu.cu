// SwiGLU: each element is read once and written once. A block has a piece of one row, so that no thread divides by `inner`.
#include "meristem_kernels/swiglu.h"

#include "rows/dispatch.h"
#include "rows/elements.h"

namespace meristem::kernels {
namespace detail {

template <class X>
struct SwigluParameters {
  std::int64_t rows;
  int inner;
  bool vectorised;
  int pieces;  // blocks of a row
  const X *dy, *gate_up;
  X* out;  // y or d_gate_up
};

inline constexpr int kSwigluThreads = 128;

// Where a thread's V elements lie.
struct SwigluPlace {
  std::int64_t row;
  int column;
};
template <int V>
MERISTEM_DEVICE SwigluPlace swiglu_place(int pieces) {
  return {device::block_index() / pieces, (device::block_index() % pieces * kSwigluThreads + device::thread_index()) * V};
}

template <class X, int V>
MERISTEM_DEVICE void load_held(Held<X, V, V>& to, const X* from, std::int64_t element) {
  to.raw[0] = device::ldg<Access<X, V>>(device::gptr<const X>(from) + element);
}

template <class X, int V>
MERISTEM_KERNEL(kSwigluThreads, 12)
swiglu_forward_kernel(const MERISTEM_GRID_CONSTANT SwigluParameters<X> p) {
  const SwigluPlace at = swiglu_place<V>(p.pieces);
  if (at.column >= p.inner) return;
  Held<X, V, V> gate, up;
  load_held(gate, p.gate_up, at.row * 2 * p.inner + at.column);
  load_held(up, p.gate_up, (at.row * 2 + 1) * p.inner + at.column);
  const auto value = [&](int j) { return divide_for<X>(gate[j], 1.0f + exp_for<X>(-gate[j])) * up[j]; };
  device::stg(device::gptr<X>(p.out) + (at.row * p.inner + at.column), packed<X, V>(value));
}

template <class X, int V>
MERISTEM_KERNEL(kSwigluThreads, 12)
swiglu_backward_kernel(const MERISTEM_GRID_CONSTANT SwigluParameters<X> p) {
  const SwigluPlace at = swiglu_place<V>(p.pieces);
  if (at.column >= p.inner) return;
  const std::int64_t gate_at = at.row * 2 * p.inner + at.column, up_at = gate_at + p.inner;
  Held<X, V, V> gate, up, dy;
  load_held(gate, p.gate_up, gate_at);
  load_held(up, p.gate_up, up_at);
  load_held(dy, p.dy, at.row * p.inner + at.column);
  device::Registers<float, V> sigmoid;
  MERISTEM_UNROLL
  for (int j = 0; j < V; ++j) sigmoid[j] = divide_for<X>(1.0f, 1.0f + exp_for<X>(-gate[j]));
  const auto d_up = [&](int j) { return dy[j] * (gate[j] * sigmoid[j]); };
  const auto d_gate = [&](int j) { return dy[j] * up[j] * (sigmoid[j] + gate[j] * sigmoid[j] * (1.0f - sigmoid[j])); };
  const device::gptr<X> out(p.out);
  device::stg(out + gate_at, packed<X, V>(d_gate));
  device::stg(out + up_at, packed<X, V>(d_up));
}

template <class X>
std::int64_t swiglu_blocks(SwigluParameters<X>& p) {
  const int elements = kSwigluThreads * (p.vectorised ? kVector<X> : 1);
  p.pieces = (p.inner + elements - 1) / elements;
  return p.rows * p.pieces;
}

template <class X>
void launch_swiglu_forward(SwigluParameters<X> p, Stream stream) {
  const std::int64_t blocks = swiglu_blocks(p);
  const auto kernel = p.vectorised ? swiglu_forward_kernel<X, kVector<X>> : swiglu_forward_kernel<X, 1>;
  device::launch("swiglu_forward", kernel, blocks, kSwigluThreads, 0, stream, p);
}

template <class X>
void launch_swiglu_backward(SwigluParameters<X> p, Stream stream) {
  const std::int64_t blocks = swiglu_blocks(p);
  const auto kernel = p.vectorised ? swiglu_backward_kernel<X, kVector<X>> : swiglu_backward_kernel<X, 1>;
  device::launch("swiglu_backward", kernel, blocks, kSwigluThreads, 0, stream, p);
}

inline void check_swiglu(const SwigluShape& shape) { require(shape.rows >= 0 && shape.inner >= 0, "swiglu", "a negative count"); }

}  // namespace detail

void swiglu_forward(const SwigluShape& shape, const void* gate_up, void* y, Stream stream) {
  detail::check_swiglu(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.inner, gate_up, y);
    detail::launch_swiglu_forward<X>({shape.rows, shape.inner, aligned, 0, nullptr, detail::as<X>(gate_up), detail::as<X>(y)}, stream);
  });
}

void swiglu_backward(const SwigluShape& shape, const void* dy, const void* gate_up, void* d_gate_up, Stream stream) {
  detail::check_swiglu(shape);
  detail::with_element(shape.element, [&]<class X>() {
    const bool aligned = detail::rows_aligned<X>(shape.inner, dy, gate_up, d_gate_up);
    detail::launch_swiglu_backward<X>(
        {shape.rows, shape.inner, aligned, 0, detail::as<X>(dy), detail::as<X>(gate_up), detail::as<X>(d_gate_up)}, stream);
  });
}

}  // namespace meristem::kernels
