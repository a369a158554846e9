// The decoder (Llama-shaped where its parts are the plain ones): every block is sequence attention, depth attention where the config has
// it, and a feed-forward, dense or of experts. Dense layered models and layered mixtures of experts are this one.
#pragma once

#include <memory>

#include "models/depth_model.h"

namespace meristem {

// The block that a config describes. output_std: start of the projections into the residual stream.
nn::Block make_block(const ModelConfig& config, const ModelBuild& build, double output_std);
// Its number of mixers.
std::int64_t mixers_of(const ModelConfig& config);

std::shared_ptr<Model> make_decoder(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions);

}  // namespace meristem
