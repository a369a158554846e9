// Small models for the instruments, and what makes their answers known: weights of a block emptied, scaled, or copied to all.
#pragma once

#include <string>

#include "analysis/recording.h"
#include "support/tiny_model.h"
#include "support/variants.h"

namespace meristem::test {

inline at::Tensor parameter(const Model& model, const std::string& name) {
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.name == name) return info.tensor;
  }
  throw std::runtime_error("no parameter " + name);
}

// What a mixer adds, times a factor: 0 takes it out.
inline void scale_mixer(const Model& model, std::int64_t block, const std::string& mixer, double factor) {
  const torch::NoGradGuard no_grad;
  const std::string last = mixer == "feed_forward" ? ".down.weight" : ".output.weight";
  parameter(model, "blocks." + std::to_string(block) + "." + mixer + last).mul_(factor);
}

inline void copy_block(const Model& model, std::int64_t from, std::int64_t to) {
  const torch::NoGradGuard no_grad;
  const std::string source = "blocks." + std::to_string(from) + ".", target = "blocks." + std::to_string(to) + ".";
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.name.rfind(target, 0) == 0) at::Tensor(info.tensor).copy_(parameter(model, source + info.name.substr(target.size())));
  }
}

inline std::shared_ptr<Model> fp32_model(const ModelConfig& config, std::uint64_t seed = 1) {
  return make_model(config, build_of(at::kFloat, ops::Path::kFused), seed);
}

inline std::vector<TokenIds> random_texts(std::size_t count, std::size_t tokens, std::uint64_t seed, std::int64_t vocab = 61) {
  torch::manual_seed(seed);
  std::vector<TokenIds> texts;
  for (std::size_t i = 0; i < count; ++i) {
    const at::Tensor ids = torch::randint(vocab, {static_cast<std::int64_t>(tokens)}, torch::kInt);
    texts.emplace_back(ids.data_ptr<std::int32_t>(), ids.data_ptr<std::int32_t>() + tokens);
  }
  return texts;
}

// Of what is defined.
inline double largest(const at::Tensor& tensor) { return tensor.nan_to_num(0).abs().max().item<double>(); }

}  // namespace meristem::test
