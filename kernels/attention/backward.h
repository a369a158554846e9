// What both backward kernels do with a score: P = exp(scale * score - log_sum_exp), dS = P * (dP - delta).
#pragma once

#include "attention/mask.h"
#include "attention/products.h"

namespace meristem::kernels::detail {

inline constexpr int kBackwardThreads = 128;

// One matrix's part for one document and head: its row 0 is the document's first token.
MERISTEM_DEVICE device::gptr<const std::uint16_t> rows_of(const AttentionInput& matrix, const Place& place, int head) {
  return device::gptr<const std::uint16_t>(matrix.data) + (place.document_begin * matrix.row_stride + head * matrix.head_stride);
}
MERISTEM_DEVICE device::gptr<std::uint16_t> rows_of(const AttentionOutput& matrix, const Place& place, int head) {
  return device::gptr<std::uint16_t>(matrix.data) + (place.document_begin * matrix.row_stride + head * matrix.head_stride);
}
// As rows_of, of a vector with a number for each head and token.
template <class T>
MERISTEM_DEVICE device::gptr<T> numbers_of(T* vector, const AttentionShape& shape, const Place& place, int head) {
  return device::gptr<T>(vector) + (static_cast<std::int64_t>(head) * shape.tokens + place.document_begin);
}

// This warp's 16 finished rows into its own rows of a tile that only it reads, and from there to memory.
template <int D>
MERISTEM_DEVICE void write_gradient(const AttentionOutput& gradient, const Place& place, int head, SharedAddress staging, int row,
                                    const Registers<Accumulator, D / 8>& sums, float factor) {
  stage_rows<D>(staging, row, sums, factor, factor);
  device::warp_sync();
  write_rows<D, 16>(staging, row, rows_of(gradient, place, head) + place.first * gradient.row_stride, gradient.row_stride,
                    place.length - place.first);
}

}  // namespace meristem::kernels::detail
