// Eight bf16, the 16 bytes that a lane loads at once, and sums of them in fp32.
#pragma once

#include "device/layer.h"

namespace meristem::kernels::detail {

using device::Registers;
using device::Vec4;
using ChunkSum = Registers<float, 8>;

MERISTEM_DEVICE float dot_chunk(const Vec4& a, const Vec4& b) {
  float sum = 0;
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) {
    sum += device::low_bf16(a.x[i]) * device::low_bf16(b.x[i]);
    sum += device::high_bf16(a.x[i]) * device::high_bf16(b.x[i]);
  }
  return sum;
}

MERISTEM_DEVICE void add_scaled(ChunkSum& to, float factor, const Vec4& chunk) {
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) {
    to[2 * i] += factor * device::low_bf16(chunk.x[i]);
    to[2 * i + 1] += factor * device::high_bf16(chunk.x[i]);
  }
}
MERISTEM_DEVICE void set_zero(ChunkSum& to) {
  MERISTEM_UNROLL
  for (int i = 0; i < 8; ++i) to[i] = 0;
}
MERISTEM_DEVICE Vec4 scaled_chunk(const ChunkSum& from, float factor) {
  Vec4 chunk;
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) chunk.x[i] = device::pack_bf16(from[2 * i] * factor, from[2 * i + 1] * factor);
  return chunk;
}

// Each value becomes its sum over lanes that differ in the bits from `from` on, below `to`.
template <int count>
MERISTEM_DEVICE void sum_over_lanes(Registers<float, count>& values, int from, int to) {
  for (int distance = from; distance < to; distance *= 2) {
    MERISTEM_UNROLL
    for (int i = 0; i < count; ++i) values[i] += device::shuffle_xor(values[i], distance);
  }
}

}  // namespace meristem::kernels::detail
