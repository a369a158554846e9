// Where attention may look: a flattened batch of N tokens is cut into documents, which are whole sequences where there is no document mask;
// a token sees its own document up to itself.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

struct Documents {
  std::vector<std::int64_t> lengths;  // sum = N, each >= 1
  // int32 [documents + 1 or more], on the batch's device: the documents' starts, then N, as often as wanted (empty documents). Our own
  // kernels read them. Undefined until the batch brings them along or on() makes them.
  at::Tensor offsets = {};

  // With offsets on `device`: those of the batch, else made from the lengths, a copy from the host. A model asks once a batch.
  Documents on(at::Device device) const;

  static Documents uniform(std::int64_t count, std::int64_t length) {
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
