// The Dreamer-style architecture, reconstructed (docs/architectures.md): one block, or a cycle of m, called R times, of sequence attention,
// depth attention and expert attention.
#pragma once

#include <memory>

#include "models/model.h"

namespace meristem {

// R is the number of calls of config.depth_plan: projections into the residual stream start with std 0.02 / sqrt(2 R mixers).
std::shared_ptr<Model> make_dreamer(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions);

}  // namespace meristem
