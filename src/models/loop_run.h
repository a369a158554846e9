// What a plan's loop means while a token passes through it: what is injected, and which calls gradients flow through.
#pragma once

#include "config/run_config.h"
#include "depth/plan.h"
#include "nn/linear.h"

namespace meristem {

// For one forward pass. e is the loop's first input, the prelude's output. The state starts as e, and each repeat begins with
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
  // The input of call r, given the output of the call before. [N, D] -> [N, D], the same type.
  at::Tensor input(const at::Tensor& h_ND, std::int64_t r);

 private:
  std::string injection_;
  LoopSpan span_;                    // length 0: no loop
  std::int64_t first_learning_ = 0;  // repeat
  const nn::Linear& adapter_;
  at::Tensor first_input_ND_;  // e, once the loop has begun
};

}  // namespace meristem
