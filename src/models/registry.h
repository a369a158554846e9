// Architectures by name, and those that the program has. Registration is explicit: builtin_registry() lists them; self-registering statics
// would be dropped by the linker from static libraries.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/depth_model.h"

namespace meristem {

class ModelRegistry {
 public:
  // Builds config.blocks blocks. max_positions: longest document to expect; decoding may go beyond.
  using Factory = std::function<std::shared_ptr<Model>(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions)>;

  // options: the keys of model.options that the architecture reads. A name twice is a bug.
  void add(const std::string& architecture, Factory factory, std::vector<std::string> options = {});
  // InputError for an unknown name or an option that the architecture does not read; it lists those that are known.
  std::shared_ptr<Model> make(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions) const;

 private:
  struct Architecture {
    Factory factory;
    std::vector<std::string> options;
  };
  std::map<std::string, Architecture> architectures_;
};

ModelRegistry builtin_registry();

// The block that a config describes. output_std: start of the projections into the residual stream.
nn::Block make_block(const ModelConfig& config, const ModelBuild& build, double output_std);
// Chooses the parameters, by name, that are the last maps of the mixers of `blocks` blocks: with those at zero a block adds nothing.
// InputError names a mixer that does not say which they are (nn::Module::mark_ends_mixer).
std::function<bool(const std::string&)> mixer_ends(const Model& model, std::int64_t blocks);
// Its number of mixers.
std::int64_t mixers_of(const ModelConfig& config);

// The decoder (Llama-shaped where its parts are the plain ones): every block is sequence attention, depth attention where the config has
// it, and a feed-forward, dense or of experts. Dense layered models and layered mixtures of experts are this one.
std::shared_ptr<Model> make_decoder(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions);

// The Dreamer-style architecture, reconstructed (docs/architectures.md): one block, or a cycle of m, called R times, of sequence attention,
// depth attention and expert attention. R is the number of calls of config.depth_plan: projections into the residual stream start with std
// 0.02 / sqrt(2 R mixers).
std::shared_ptr<Model> make_dreamer(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions);

}  // namespace meristem
