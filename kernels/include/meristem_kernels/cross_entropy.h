// The middle of a chunked head and loss: from one chunk of logits to its losses and, in the logits' place, their gradient.
#pragma once

#include <cstdint>

#include "meristem_kernels/device.h"

namespace meristem::kernels {

// logits: [rows, vocab], contiguous, of type `element`; any vocab from 1 on, any alignment to the element; fp32 inside.
struct CrossEntropyShape {
  std::int64_t rows;
  int vocab;
  Element element;
};

// losses[r] = log(sum_j exp(logits[r][j])) - logits[r][targets[r]] fp32, and 0 where targets[r] < 0 (no target).
// with_gradient: logits[r][j] becomes softmax(logits[r])[j] - (j == targets[r]), and 0 where there is no target; else logits stay.
// A target from `vocab` on has a NaN as its loss, which stops the step. One launch; equal bits on every run. std::invalid_argument for a
// count that is not allowed.
void cross_entropy(const CrossEntropyShape& shape, void* logits, const std::int32_t* targets, float* losses, bool with_gradient,
                   Stream stream);

}  // namespace meristem::kernels
