#include "models/registry.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"
#include "depth/plan.h"
#include "nn/attention.h"
#include "nn/depth_attention.h"
#include "nn/feed_forward.h"

namespace meristem {
namespace {

bool has_own_depth_attention(const ModelConfig& config) {
  return config.depth_attention && config.depth_attention->kind == DepthAttentionKind::kSeparate;
}

}  // namespace

nn::Block make_block(const ModelConfig& config, const ModelBuild& build, double output_std) {
  const nn::Placement& placement = build.placement;
  const ops::Paths& paths = build.paths;
  std::vector<std::pair<std::string, std::shared_ptr<nn::Mixer>>> mixers;
  mixers.emplace_back("attention", std::make_shared<nn::AttentionImpl>(config, placement, paths, output_std));
  if (has_own_depth_attention(config)) {
    mixers.emplace_back("depth_attention", std::make_shared<nn::DepthAttentionImpl>(config, placement, paths));
  }
  if (config.feed_forward.kind == FeedForwardKind::kExperts) {
    mixers.emplace_back("feed_forward", std::make_shared<nn::ExpertsImpl>(config, placement, paths, output_std));
  } else {
    mixers.emplace_back("feed_forward", std::make_shared<nn::FeedForwardImpl>(config, placement, paths, output_std));
  }
  return nn::Block(config, placement, paths, std::move(mixers));
}

std::int64_t mixers_of(const ModelConfig& config) { return has_own_depth_attention(config) ? 3 : 2; }

std::shared_ptr<Model> make_decoder(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) {
  return std::make_shared<DepthModel>(config, build, max_positions, [&](std::int64_t) { return make_block(config, build, nn::kInitStd); });
}

std::shared_ptr<Model> make_dreamer(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) {
  const double calls = static_cast<double>(config.depth_plan.plan.num_calls());
  const double output_std = nn::kInitStd / std::sqrt(2 * calls * static_cast<double>(mixers_of(config)));
  return std::make_shared<DepthModel>(config, build, max_positions, [&](std::int64_t) { return make_block(config, build, output_std); });
}

void ModelRegistry::add(const std::string& architecture, Factory factory) {
  TORCH_CHECK(factories_.emplace(architecture, std::move(factory)).second, "architecture registered twice: ", architecture);
}

std::shared_ptr<Model> ModelRegistry::make(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) const {
  const auto found = factories_.find(config.architecture);
  if (found != factories_.end()) return found->second(config, build, max_positions);
  std::vector<std::string> known;
  for (const auto& entry : factories_) known.push_back(entry.first);
  const auto near = did_you_mean(config.architecture, known);
  throw InputError(fmt::format("model.architecture: found {}; allowed: {}{}", config.architecture, fmt::join(known, ", "),
                               near ? " (did you mean " + *near + "?)" : ""));
}

ModelRegistry builtin_registry() {
  ModelRegistry registry;
  registry.add("decoder", make_decoder);
  registry.add("dreamer", make_dreamer);
  return registry;
}

}  // namespace meristem
