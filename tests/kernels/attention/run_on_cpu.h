// Runs a problem's kernels on the CPU layer. Throws the layer's Report where a check finds a fault.
#pragma once

#include "kernels/attention/problem.h"

namespace meristem::test {

inline void run_forward(AttentionProblem& problem) {
  kernels::device::host::Grid::current().settings.seed = problem.given.seed;
  kernels::attention_forward(problem.shape(), problem.input('q'), problem.input('k'), problem.input('v'), problem.output(),
                             problem.log_sum_exp.data(), nullptr);
}

// Reads what run_forward left.
inline void run_backward(AttentionProblem& problem) {
  const kernels::AttentionInput out{problem.out.data(), problem.out_columns, problem.given.head_dim};
  const kernels::AttentionInput d_out{problem.d_out.data(), problem.out_columns, problem.given.head_dim};
  kernels::device::host::Grid::current().settings.seed = problem.given.seed;
  kernels::attention_backward(problem.shape(), problem.input('q'), problem.input('k'), problem.input('v'), out, d_out,
                              problem.log_sum_exp.data(), problem.delta.data(), problem.gradient('q'), problem.gradient('k'),
                              problem.gradient('v'), nullptr);
}

}  // namespace meristem::test
