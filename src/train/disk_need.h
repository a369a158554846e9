// What a run's checkpoints will take on disk, known before its first step.
#pragma once

#include <cstdint>

#include "models/registry.h"

namespace meristem {

// Bytes that checkpoints written after update `from_step` (0: a new run) hold at the same time at most: all that are never rotated, the
// newest `keep_last`, and one being written. A resumed run's newest ones take the place of those already there. 12 bytes a parameter
// (fp32 weight and both moments), and the headers.
std::uint64_t checkpoint_disk_need(const RunConfig& config, const ModelRegistry& registry, std::int64_t from_step);

}  // namespace meristem
