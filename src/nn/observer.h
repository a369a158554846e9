// A forward pass seen from beside it: what each call reads, what each of its mixers makes of the stream, and the right to put something
// else there. All that analysis measures goes through here. A pass without an observer asks whether there is one, and does nothing else.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace meristem::nn {

struct CallContext;

// Tensors are [N, D] of the residual type, rows as in the batch. What a function returns takes the place of what it was given; the same
// tensor changes no bit. A call that activation checkpointing computes again is observed the first time alone, so a pass with gradients may
// be read but not changed.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void begins(const at::Tensor& /*tokens_N*/, const at::Tensor& /*positions_N*/) {}
  // Before a call, and before what a loop injects into its input: h_0 before the first.
  virtual at::Tensor entering(const CallContext& /*call*/, const at::Tensor& h_ND) { return h_ND; }
  // The call's mixer of this number has made `after` of `before`.
  virtual at::Tensor mixed(const CallContext& /*call*/, std::size_t /*mixer*/, const at::Tensor& /*before_ND*/,
                           const at::Tensor& after_ND) {
    return after_ND;
  }
  // The call has made `output` of `input`, what was injected included in both.
  virtual at::Tensor leaving(const CallContext& /*call*/, const at::Tensor& /*input_ND*/, const at::Tensor& output_ND) { return output_ND; }
  // chosen_Nk: int64 in [0, experts), distinct in a row.
  virtual void chose(const CallContext& /*call*/, const at::Tensor& /*chosen_Nk*/, std::int64_t /*experts*/) {}
  // Depth attention has run; weights() computes what it gave each entry of the memory of its depth, [N, H, entries], fp32 or wider.
  virtual void attended_depth(const CallContext& /*call*/, const std::function<at::Tensor()>& /*weights_NHM*/) {}
};

}  // namespace meristem::nn
