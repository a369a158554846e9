// Checks what a caller gives and picks the element type.
#include <stdexcept>
#include <string>

#include "rope/parameters.h"
#include "rows/dispatch.h"

namespace meristem::kernels {
namespace {

void check_rope(const RopeShape& shape) {
  if (shape.rows < 0 || shape.heads < 0 || shape.head_dim < 2 || shape.head_dim > kRopeMaxHeadDim || shape.head_dim % 2 != 0) {
    throw std::invalid_argument("rope: " + std::to_string(shape.heads) + " heads of dim " + std::to_string(shape.head_dim) +
                                "; allowed: even dims from 2 to " + std::to_string(kRopeMaxHeadDim));
  }
}

// As few lanes as hold half a head at eight pairs each.
int rope_lanes(int half) {
  int lanes = 1;
  while (8 * lanes < half) lanes *= 2;
  return lanes;
}

template <class X, class Y>
bool rope_rows_aligned(const detail::RopeRows<Y>& rows) {
  return rows.data == nullptr || detail::rows_aligned<X>(rows.stride, rows.data);
}

// x, dy, out: as RopeParameters has them.
template <class X>
detail::RopeParameters<X> rope_parameters(const RopeShape& shape, const QkNorm& norm, int columns, detail::RopeRows<const X> x,
                                          detail::RopeRows<const X> dy, detail::RopeRows<X> out, float sign) {
  const int half = shape.head_dim / 2;
  const bool aligned = detail::rows_aligned<X>(half, norm.q_gain, norm.k_gain) && detail::rows_aligned<X>(columns) &&
                       detail::rows_aligned<float>(half, shape.cos, shape.sin) && rope_rows_aligned<X>(x) && rope_rows_aligned<X>(dy) &&
                       rope_rows_aligned<X>(out);
  return {shape.rows, shape.heads, half, rope_lanes(half), columns, aligned, shape.positions, shape.cos, shape.sin, sign, norm,
          x,          dy,          out,  nullptr};
}

void check_norm(const RopeShape& shape, const QkNorm& norm, int columns) {
  if (norm.query_heads < 0 || norm.query_heads > shape.heads || columns < shape.heads * shape.head_dim) {
    throw std::invalid_argument("rope: " + std::to_string(norm.query_heads) + " query heads of " + std::to_string(shape.heads) + " in " +
                                std::to_string(columns) + " columns");
  }
}

}  // namespace

void rope(const RopeShape& shape, void* x, std::int64_t stride, float sign, Stream stream) {
  check_rope(shape);
  detail::with_element(shape.element, [&]<class X>() {
    X* data = detail::as<X>(x);
    detail::launch_rope(rope_parameters<X>(shape, {}, shape.heads * shape.head_dim, {data, stride}, {}, {data, stride}, sign), stream);
  });
}

void qk_norm_rope_forward(const RopeShape& shape, const QkNorm& norm, int columns, const void* x, std::int64_t x_stride, void* y,
                          std::int64_t y_stride, Stream stream) {
  check_rope(shape);
  check_norm(shape, norm, columns);
  detail::with_element(shape.element, [&]<class X>() {
    detail::launch_qk_norm_rope(rope_parameters<X>(shape, norm, columns, {detail::as<X>(x), x_stride}, {}, {detail::as<X>(y), y_stride}, 1),
                                stream);
  });
}

void qk_norm_rope_backward(const RopeShape& shape, const QkNorm& norm, int columns, const void* dy, std::int64_t dy_stride, const void* x,
                           std::int64_t x_stride, void* dx, std::int64_t dx_stride, float* d_gains, float* partials, Stream stream) {
  check_rope(shape);
  check_norm(shape, norm, columns);
  detail::with_element(shape.element, [&]<class X>() {
    auto p = rope_parameters<X>(shape, norm, columns, {detail::as<X>(x), x_stride}, {detail::as<X>(dy), dy_stride},
                                {detail::as<X>(dx), dx_stride}, -1);
    p.partials = partials;
    detail::launch_qk_norm_rope_backward(p, d_gains, stream);
  });
}

}  // namespace meristem::kernels
