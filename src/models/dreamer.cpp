#include "models/dreamer.h"

#include <cmath>

#include "depth/plan.h"
#include "models/decoder.h"

namespace meristem {

std::shared_ptr<Model> make_dreamer(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) {
  const double calls = static_cast<double>(DepthPlan::parse(config.depth_plan).num_calls());
  const double output_std = nn::kInitStd / std::sqrt(2 * calls * static_cast<double>(mixers_of(config)));
  return std::make_shared<DepthModel>(config, build, max_positions, [&](std::int64_t) { return make_block(config, build, output_std); });
}

}  // namespace meristem
