// Tokens for benchmarks, which need no text.
#pragma once

#include "data/batch.h"

namespace meristem::cli {

// The same batch for the same arguments: `sequences` rows of `length` uniform tokens, no document boundaries.
HostBatch random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab);

}  // namespace meristem::cli
