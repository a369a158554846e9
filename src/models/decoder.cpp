#include "models/decoder.h"

#include "models/depth_model.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"

namespace meristem {

std::shared_ptr<Model> make_decoder(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) {
  return std::make_shared<DepthModel>(config, build, max_positions, [&](std::int64_t) {
    return nn::Block(std::vector<std::pair<std::string, std::shared_ptr<nn::Mixer>>>{
        {"attention", std::make_shared<nn::AttentionImpl>(config, build.placement, build.paths)},
        {"feed_forward", std::make_shared<nn::FeedForwardImpl>(config, build.placement, build.paths)}});
  });
}

}  // namespace meristem
