// Splits rows over threads in chunks that depend only on (rows, threads): the same thread count gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>

namespace meristem::ops {

// Calls body(chunk, begin, end) for `chunks` contiguous ranges of [0, rows), in parallel.
template <class Body>
void parallel_chunks(std::int64_t rows, std::int64_t chunks, const Body& body) {
  const std::int64_t size = (rows + chunks - 1) / std::max<std::int64_t>(chunks, 1);
  at::parallel_for(0, chunks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c) {
      const std::int64_t begin = std::min(rows, c * size), end = std::min(rows, begin + size);
      if (begin < end) body(c, begin, end);
    }
  });
}

template <class Body>
void parallel_rows(std::int64_t rows, const Body& body) {
  parallel_chunks(rows, at::get_num_threads(), [&](std::int64_t, std::int64_t begin, std::int64_t end) { body(begin, end); });
}

}  // namespace meristem::ops
