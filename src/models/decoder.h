// The plain decoder (Llama-shaped): every block is sequence attention and a dense SwiGLU.
#pragma once

#include <memory>

#include "models/model.h"

namespace meristem {

std::shared_ptr<Model> make_decoder(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions);

}  // namespace meristem
