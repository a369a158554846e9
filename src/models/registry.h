// Architectures by name. Registration is explicit: builtin_registry() lists what the program has; self-registering statics would be
// dropped by the linker from static libraries.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "models/model.h"

namespace meristem {

class ModelRegistry {
 public:
  // Builds config.blocks blocks. max_positions: longest document to expect; decoding may go beyond.
  using Factory = std::function<std::shared_ptr<Model>(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions)>;

  void add(const std::string& architecture, Factory factory);  // a name twice is a bug
  // InputError lists the known names.
  std::shared_ptr<Model> make(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) const;

 private:
  std::map<std::string, Factory> factories_;
};

ModelRegistry builtin_registry();

}  // namespace meristem
