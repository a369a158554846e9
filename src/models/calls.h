// How the calls of a plan run while tokens pass through: what a loop injects and which calls gradients flow through, and activation
// checkpointing of a call.
#pragma once

#include <string>

#include "config/run_config.h"
#include "depth/plan.h"
#include "nn/block.h"

namespace meristem {

// What a plan's loop means for one forward pass. e is the loop's first input, the prelude's output. The state starts as e, and each repeat
// begins with
//   none:    h
//   add:     h + e from the second repeat on (the first has e alone), so that one repeat is the plain model
//   concat:  A [h; e], A [D, 2 D] learned, at every repeat (Huginn's adapter, 2502.05171; its random start of the state is e here, so that
//            a token's result is a function of the text alone)
class LoopRun {
 public:
  // InputError where the model injects and the plan does not say where: it has no loop().
  LoopRun(const LoopConfig& config, const DepthPlan& plan, const nn::Linear& adapter);

  // Whether gradients flow through call r: false in repeats before the last `backprop_last`.
  bool learns(std::int64_t r) const;
  // Whether call r + 1 begins with the very output of call r, and gradients flow through both or neither.
  bool hands_on(std::int64_t r) const;
  // The input of call r, given the output of the call before. [N, D] -> [N, D], the same type.
  at::Tensor input(const at::Tensor& h_ND, std::int64_t r);

 private:
  Injection injection_;
  LoopSpan span_;                    // length 0: no loop
  std::int64_t first_learning_ = 0;  // repeat
  const nn::Linear& adapter_;
  at::Tensor first_input_ND_;  // e, once the loop has begun
};

// Activation checkpointing of one block call (Chen et al., 1604.06174): forward keeps the call's input alone, backward runs the call again.
// As block->forward(h_ND, call), with the same result and gradients. Parameters, and what the call reads of the memory of its depth, are
// inputs of the autograd node; what it adds to that memory are further outputs, kept. So the gradients of a block that is called many times
// meet in the same order and place as without checkpointing, and hooks see each parameter once. Random numbers that the call draws from the
// default generators are drawn again alike; experts are counted the first time only. What `call` points to need not live on.
at::Tensor checkpointed_call(const nn::Block& block, const at::Tensor& h_ND, nn::CallContext& call);

}  // namespace meristem
