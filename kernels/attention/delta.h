// delta = rowsum(d_out * out), one number for each query row: the softmax's backward needs sum_j P_ij dP_ij, which is this (FlashAttention,
// section B.2). D/8 neighbouring lanes share a row, 16 bytes each.
#pragma once

#include "attention/parameters.h"
#include "device/layer.h"
#include "rows/chunk.h"

namespace meristem::kernels::detail {

inline constexpr int kDeltaThreads = 128;
template <int D>
inline constexpr int kDeltaRows = kDeltaThreads / (D / 8);  // of a block

template <int D>
MERISTEM_KERNEL(kDeltaThreads, 8)
attention_delta_kernel(const MERISTEM_GRID_CONSTANT BackwardParameters p) {
  constexpr int kLanes = D / 8;
  const std::int64_t row = static_cast<std::int64_t>(device::block_index()) * kDeltaRows<D> + device::thread_index() / kLanes;
  const std::int64_t token = row / p.shape.heads;
  const int head = static_cast<int>(row % p.shape.heads), chunk = device::thread_index() % kLanes;
  const bool valid = token < p.shape.tokens;
  float sum = 0;
  if (valid) {
    const device::gptr<const std::uint16_t> out(p.out.data), d_out(p.d_out.data);
    sum = dot_chunk(device::ldg<device::Vec4>(out + (token * p.out.row_stride + head * p.out.head_stride + chunk * 8)),
                    device::ldg<device::Vec4>(d_out + (token * p.d_out.row_stride + head * p.d_out.head_stride + chunk * 8)));
  }
  MERISTEM_UNROLL
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += device::shuffle_xor(sum, lanes);
  if (valid && chunk == 0) device::stg(device::gptr<float>(p.delta) + (head * static_cast<std::int64_t>(p.shape.tokens) + token), sum);
}

template <int D>
void launch_attention_delta(const BackwardParameters& p, Stream stream) {
  const std::int64_t rows = static_cast<std::int64_t>(p.shape.tokens) * p.shape.heads;
  device::launch("attention_delta", attention_delta_kernel<D>, (rows + kDeltaRows<D> - 1) / kDeltaRows<D>, kDeltaThreads, 0, stream, p);
}

}  // namespace meristem::kernels::detail
