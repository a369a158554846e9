// The running softmax of one warp's 16 rows (Milakov and Gimelshein 2018; FlashAttention-2, algorithm 1). Lane 4g + t holds columns 2t and
// 2t + 1 of each eight, of rows g (half 0) and g + 8 (half 1).
#pragma once

#include "attention/tile.h"

namespace meristem::kernels::detail {

struct RunningSoftmax {
  Registers<float, 2> max, sum;  // sum: of this lane's columns only, until `finish`
};

MERISTEM_DEVICE void start(RunningSoftmax& state) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    state.max[half] = -device::infinity();
    state.sum[half] = 0;
  }
}

// Turns scores into exp(scale * (score - max)) and scales what was summed before under a smaller maximum.
template <int tiles, int columns>
MERISTEM_DEVICE void advance(RunningSoftmax& state, Registers<Accumulator, tiles>& scores, Registers<Accumulator, columns>& out,
                             float scale_log2) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
    MERISTEM_UNROLL
    for (int n = 0; n < tiles; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 2; ++i) max = scores[n][2 * half + i] > max ? scores[n][2 * half + i] : max;
    }
    MERISTEM_UNROLL
    for (int lanes = 1; lanes <= 2; lanes *= 2) {  // the four lanes of a row
      const float other = device::shuffle_xor(max, lanes);
      max = other > max ? other : max;
    }
    // A row that has seen no key yet: subtract 0, so that -infinity stays what it is.
    const float shift = max == -device::infinity() ? 0 : max * scale_log2;
    const float rescale = device::exp2_fast(state.max[half] * scale_log2 - shift);
    state.max[half] = max;
    float sum = state.sum[half] * rescale;
    MERISTEM_UNROLL
    for (int n = 0; n < tiles; ++n) {
      MERISTEM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * half + i];
        score = device::exp2_fast(score * scale_log2 - shift);
        sum += score;
      }
    }
    state.sum[half] = sum;
    MERISTEM_UNROLL
    for (int n = 0; n < columns; ++n) {
      out[n][2 * half] *= rescale;
      out[n][2 * half + 1] *= rescale;
    }
  }
}

// The rows' whole sums.
MERISTEM_DEVICE void finish(RunningSoftmax& state) {
  MERISTEM_UNROLL
  for (int half = 0; half < 2; ++half) {
    MERISTEM_UNROLL
    for (int lanes = 1; lanes <= 2; lanes *= 2) state.sum[half] += device::shuffle_xor(state.sum[half], lanes);
  }
}

}  // namespace meristem::kernels::detail
