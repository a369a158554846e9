// How many token choices each expert received: what the balance biases move by, and what a run logs.
#pragma once

#include <cstdint>
#include <map>

#include <ATen/core/Tensor.h>

namespace meristem::nn {

struct ExpertLoads {
  struct Call {
    std::int64_t block = 0;
    at::Tensor counts_E;  // int64
  };
  std::map<std::int64_t, Call> by_depth;  // by place in the depth plan

  void add(std::int64_t depth_index, std::int64_t block, const at::Tensor& counts_E) {
    Call& call = by_depth[depth_index];
    call.block = block;
    call.counts_E = call.counts_E.defined() ? call.counts_E + counts_E : counts_E;
  }
  void add(const ExpertLoads& other) {
    for (const auto& [depth_index, call] : other.by_depth) add(depth_index, call.block, call.counts_E);
  }
};

}  // namespace meristem::nn
