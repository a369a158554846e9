#include "models/registry.h"

#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"
#include "models/decoder.h"
#include "models/dreamer.h"

namespace meristem {

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
