// Where attention may look: a flattened batch of N tokens is cut into segments (sequences, or documents under a document mask); a token
// sees its own segment up to itself.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

struct Segments {
  std::vector<std::int64_t> lengths;  // sum = N, each >= 1
  // int32, on the batch's device: the segments' starts, then N, as often as wanted (empty segments). Undefined: made from `lengths` by
  // whoever needs it, which is a copy from the host.
  at::Tensor offsets = {};

  static Segments uniform(std::int64_t count, std::int64_t length) {
    return {std::vector<std::int64_t>(static_cast<std::size_t>(count), length)};
  }
  bool is_uniform() const {
    for (const std::int64_t length : lengths) {
      if (length != lengths.front()) return false;
    }
    return !lengths.empty();
  }
};

}  // namespace meristem::ops
