// SwiGLU (Shazeer, 2020) on a packed projection, forward and backward.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

// gate_up: [rows, 2 inner], a row's gate before its up; y, dy: [rows, inner]. All contiguous, of type `element`, fp32 inside. 16 bytes at a
// time where `inner` and the buffers allow it, else element by element. std::invalid_argument for a negative count.
struct SwigluShape {
  std::int64_t rows;
  int inner;
  Element element;
};

// y = gate sigmoid(gate) up
void swiglu_forward(const SwigluShape& shape, const void* gate_up, void* y, Stream stream);

// d_up = dy silu(gate), d_gate = dy up (sigmoid + silu (1 - sigmoid)); d_gate_up may be gate_up.
void swiglu_backward(const SwigluShape& shape, const void* dy, const void* gate_up, void* d_gate_up, Stream stream);

}  // namespace meristem::kernels
