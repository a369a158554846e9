#include "models/registry.h"

#include <algorithm>
#include <cmath>
#include <set>
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

std::function<bool(const std::string&)> mixer_ends(const Model& model, std::int64_t blocks) {
  std::set<std::string> ends;
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.ends_mixer) ends.insert(info.name);
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (const ModelPart& mixer : model.parts(block)) {
      const std::string name = fmt::format("blocks.{}.{}.", block, mixer.name);
      const auto first = ends.lower_bound(name);
      if (first != ends.end() && first->starts_with(name)) continue;
      throw InputError(fmt::format("inserted: silent: the mixer {} of block {} does not say which parameters end it", mixer.name, block));
    }
  }
  return [ends = std::move(ends)](const std::string& name) { return ends.contains(name); };
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

void ModelRegistry::add(const std::string& architecture, Factory factory, std::vector<std::string> options) {
  const bool is_new = architectures_.emplace(architecture, Architecture{std::move(factory), std::move(options)}).second;
  TORCH_CHECK(is_new, "architecture registered twice: ", architecture);
}

std::shared_ptr<Model> ModelRegistry::make(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) const {
  const auto suggestion = [](const std::string& word, const std::vector<std::string>& known) {
    const auto near = did_you_mean(word, known);
    return near ? " (did you mean " + *near + "?)" : "";
  };
  const auto found = architectures_.find(config.architecture);
  if (found == architectures_.end()) {
    std::vector<std::string> known;
    for (const auto& entry : architectures_) known.push_back(entry.first);
    throw InputError(fmt::format("model.architecture: found {}; allowed: {}{}", config.architecture, fmt::join(known, ", "),
                                 suggestion(config.architecture, known)));
  }
  const std::vector<std::string>& known = found->second.options;
  for (const auto& [key, value] : config.options) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    throw InputError(fmt::format("model.options.{}: unknown to the architecture {}; allowed: {}{}", printable(key), config.architecture,
                                 known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")), suggestion(key, known)));
  }
  ModelBuild whole = build;
  whole.placement.linear = build.paths.linear;
  return found->second.factory(config, whole, max_positions);
}

ModelRegistry builtin_registry() {
  ModelRegistry registry;
  registry.add("decoder", make_decoder);
  registry.add("dreamer", make_dreamer);
  return registry;
}

}  // namespace meristem
