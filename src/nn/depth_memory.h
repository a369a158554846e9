// What tokens keep of their own way through the depth, for one forward pass: never part of the sequence's KV cache, in decoding neither.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/depth_attention.h"

namespace meristem::nn {

// A call is a function of its input (`state`), `previous`, and the keys and values so far; what it appends to them is a further output.
// It never changes what stands there: a call that is computed again gets the same memory as the first time.
struct DepthMemory {
  at::Tensor state;                      // [N, D], residual type: what the running call begins with; the first one's is the embedding, h_0
  at::Tensor previous;                   // [N, D]: what the call before began with; undefined in the first call
  std::vector<at::Tensor> keys, values;  // one entry a call, of a shape that the mixers agree on

  c10::intrusive_ptr<ops::DepthGradients> gradients;  // where calls gather those of the entries; null where each call hands on its own

  // For a call that reads the first `shared_keys` and `shared_values` entries of this memory.
  ops::SharedEntries shared(std::size_t shared_keys, std::size_t shared_values) const { return {gradients, shared_keys, shared_values}; }
  void begin_call(const at::Tensor& h_ND) {
    previous = state;
    state = h_ND;
  }
};

}  // namespace meristem::nn
