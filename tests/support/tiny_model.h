// Small models and batches for tests.
#pragma once

#include <torch/torch.h>

#include "models/registry.h"
#include "optim/flat_parameters.h"

namespace meristem::test {

inline ModelConfig tiny_config(std::int64_t blocks = 3) {
  ModelConfig config;
  config.vocab_size = 61;
  config.width = 32;
  config.blocks = blocks;
  config.depth_plan = DepthPlan::plain(blocks).print();
  config.attention.heads = 4;
  config.attention.kv_heads = 2;
  config.attention.head_dim = 8;
  config.feed_forward.inner = 48;
  return config;
}

inline ModelBuild build_of(at::ScalarType type, ops::Path path) {
  ModelBuild build;
  build.placement = {at::kCPU, type, type, type == at::kDouble ? at::kDouble : at::kFloat};
  for (const auto& op : kOperators<ops::Path>) build.paths.*op.of = path;
  return build;
}

// A model whose weights are larger than at the start of training, so that every part matters in the result.
inline std::shared_ptr<Model> make_model(const ModelConfig& config, const ModelBuild& build, std::uint64_t seed = 1) {
  torch::NoGradGuard no_grad;
  ModelBuild possible = build;
  if (config.attention.score_cap > 0) possible.paths.attention = ops::Path::kReference;  // as resolve_paths has it
  auto model = builtin_registry().make(config, possible, 64);
  const NamedTensors values = nn::initial_values(*model, seed);
  for (const ParameterInfo& info : model->parameter_infos()) {
    const at::Tensor& value = values.at(info.name);
    at::Tensor(info.tensor).copy_(info.init_std > 0 ? value * 5 : value);
  }
  return model;
}

inline Batch random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab, std::uint64_t seed) {
  torch::manual_seed(seed);
  Batch batch;
  batch.tokens_N = torch::randint(vocab, {sequences * length}, torch::kInt);
  batch.targets_N = torch::randint(vocab, {sequences * length}, torch::kInt);
  batch.positions_N = torch::arange(length, torch::kInt).repeat({sequences});
  batch.documents = ops::Documents::uniform(sequences, length);
  return batch;
}

}  // namespace meristem::test
