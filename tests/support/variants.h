// Every kind of block that the built-in architectures make, small.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "support/tiny_model.h"

namespace meristem::test {

struct Variant {
  std::string name;
  ModelConfig config;
  DepthPlan plan;
};

inline FeedForwardConfig tiny_experts(std::int64_t shared = 0) { return {FeedForwardKind::kExperts, 16, 6, 2, shared, 8, 1e-2}; }

// depth_kind: of depth attention; "none" without.
inline ModelConfig tiny_dreamer(std::string_view depth_kind_word, std::int64_t blocks = 1) {
  const auto depth_kind = choice_of<DepthAttentionKind>(depth_kind_word);
  ModelConfig config = tiny_config(blocks);
  config.architecture = "dreamer";
  config.depth_plan = blocks == 1 ? "(0)x4" : "(0-1)x2";
  config.feed_forward = tiny_experts();
  if (depth_kind == DepthAttentionKind::kSeparate) {
    config.depth_attention = DepthAttentionConfig{*depth_kind, 1, DepthKeys::kStates, DepthPosition::kRope};
  } else if (depth_kind) {
    config.depth_attention = DepthAttentionConfig{*depth_kind, 0, {}, {}};
  }
  return config;
}

inline std::vector<Variant> variants() {
  std::vector<Variant> all;
  const auto add = [&](const std::string& name, const ModelConfig& config) { all.push_back({name, config, config.depth_plan.plan}); };
  for (const char* kind : {"none", "separate", "joint", "values"}) {
    add(std::string("dreamer, depth attention ") + kind, tiny_dreamer(kind));
    ModelConfig dense = tiny_dreamer(kind, 2);
    dense.feed_forward = tiny_config().feed_forward;
    add(std::string("dense cycle of two, depth attention ") + kind, dense);
  }
  ModelConfig many_heads = tiny_dreamer("separate", 2);
  many_heads.depth_attention = DepthAttentionConfig{DepthAttentionKind::kSeparate, 4, DepthKeys::kUpdates, DepthPosition::kNone};
  many_heads.feed_forward = tiny_experts(2);
  add("four heads over updates without position, shared experts", many_heads);
  ModelConfig sandwich = tiny_dreamer("separate");
  sandwich.norm = Norm::kSandwich;
  add("sandwich norm", sandwich);
  ModelConfig post = tiny_dreamer("separate");
  post.norm = Norm::kPost;
  add("post norm", post);
  ModelConfig olmo2 = tiny_config(3);
  olmo2.norm = Norm::kPost;
  olmo2.attention.qk_norm = true;
  olmo2.attention.qk_norm_over = QkNormOver::kAll;
  add("post norm, QK norm over all heads", olmo2);
  ModelConfig layered = tiny_config(3);
  layered.feed_forward = tiny_experts(1);
  add("layered mixture of experts", layered);
  ModelConfig others = tiny_config(4);  // what models that come in from elsewhere have
  others.attention.qkv_bias = others.attention.qk_norm = true;
  others.attention.window = 5;
  others.attention.no_rope_every = 2;
  others.attention.rope_scaling = RopeScalingConfig{RopeScalingKind::kLlama3, 4, 1, 4, 16};
  add("biases, window, blocks without RoPE, scaled RoPE", others);
  ModelConfig gemma = tiny_config(4);
  gemma.norm = Norm::kBoth;
  gemma.attention.window = 5;
  gemma.attention.full_every = 2;
  gemma.attention.score_cap = 0.5;
  gemma.logit_cap = 1.5;
  gemma.embedding_scale = 3;
  gemma.feed_forward.kind = FeedForwardKind::kGeglu;
  add("norms before and after, windows in every second block, capped scores and logits, scaled embedding, GeGLU", gemma);
  ModelConfig windowed = tiny_dreamer("values");
  windowed.attention.window = 5;
  add("values with a window", windowed);
  ModelConfig prelude = tiny_dreamer("joint", 2);
  prelude.blocks = 3;
  prelude.depth_plan = "0, (1)x3, 2";
  add("prelude and coda", prelude);
  return all;
}

// Weights larger than at the start, zero ones too, so that every part matters in the result.
inline std::shared_ptr<Model> make_lively_model(const ModelConfig& config, const ModelBuild& build, std::uint64_t seed = 1) {
  torch::NoGradGuard no_grad;
  auto model = make_model(config, build, seed);
  torch::manual_seed(seed);
  for (const ParameterInfo& info : model->parameter_infos()) {
    const at::Tensor noise = torch::randn(info.tensor.sizes(), torch::kDouble) * 0.1;
    if (info.init_std == 0) at::Tensor(info.tensor).add_(noise.to(info.tensor.scalar_type()));
  }
  return model;
}

}  // namespace meristem::test
