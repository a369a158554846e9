// The learning rate as a pure function of (config, step): nothing to save, nothing to restore wrongly.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.h"

namespace meristem {

// n: number of the update, 1..S.  lr(n) = peak min(1, n/W) for n <= D, then peak (1 - sqrt((n-D-1)/(S-D))) for one_minus_sqrt, or the
// linear, cosine form of the same fraction. With growth.rewarm_steps = K, the K updates after a growth at T scale by (n-T)/K.
double learning_rate(const RunConfig& config, std::int64_t n);

// Last step of each LR segment (warmup, flat, decay): checkpoints at them are always written and never rotated.
std::vector<std::int64_t> learning_rate_segment_ends(const RunConfig& config);

}  // namespace meristem
