#include "interop/families.h"

#include <array>
#include <cmath>

#include <fmt/format.h>

namespace meristem {
namespace {

using Window = Family::Window;

// Defaults are those of transformers 5's config classes.
constexpr std::array kFamilies{
    Family{.model_type = "llama", .class_name = "LlamaForCausalLM"},
    Family{.model_type = "mistral",
           .class_name = "MistralForCausalLM",
           .window = Window::kKey,
           .kv_heads = 8,
           .sliding_window = 4096,
           .max_positions = 131072},
    Family{.model_type = "qwen3",
           .class_name = "Qwen3ForCausalLM",
           .qk_norm = true,
           .window = Window::kSwitch,
           .kv_heads = 32,
           .head_dim = 128,
           .sliding_window = 4096,
           .max_positions = 32768},
    Family{.model_type = "qwen2",
           .class_name = "Qwen2ForCausalLM",
           .qkv_bias = true,
           .window = Window::kSwitch,
           .kv_heads = 32,
           .sliding_window = 4096,
           .max_positions = 32768},
    Family{.model_type = "smollm3",
           .class_name = "SmolLM3ForCausalLM",
           .no_rope = true,
           .kv_heads = 4,
           .max_positions = 32768,
           .rope_theta = 2e6,
           .tied = true},
    Family{.model_type = "phi3",
           .class_name = "Phi3ForCausalLM",
           .packed = true,
           .llama3 = false,
           .window = Window::kKey,
           .max_positions = 4096,
           .norm_eps = 1e-5},
    Family{.model_type = "granite", .class_name = "GraniteForCausalLM", .multipliers = true},
    Family{.model_type = "olmo2",
           .class_name = "Olmo2ForCausalLM",
           .qk_norm = true,
           .norm_eps = 1e-5,
           .qk_norm_over = QkNormOver::kAll,
           .norm = Norm::kPost},
    Family{.model_type = "gemma2",
           .class_name = "Gemma2ForCausalLM",
           .llama3 = true,
           .gemma = true,
           .window = Window::kAlternate,
           .kv_heads = 4,
           .head_dim = 256,
           .sliding_window = 4096,
           .max_positions = 8192,
           .tied = true,
           .norm = Norm::kBoth,
           .feed_forward = FeedForwardKind::kGeglu,
           .activation = "gelu_pytorch_tanh"},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* family_of(std::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

namespace {

// What no class has; empty where there is nothing of that kind.
std::string not_a_decoder(const ModelConfig& model, const DepthPlan& plan) {
  constexpr const char* kThey = "stock classes of transformers";
  if (model.architecture != "decoder") return fmt::format("model.architecture: found {}; {} are decoders", model.architecture, kThey);
  if (model.norm == Norm::kSandwich) return fmt::format("model.norm: found sandwich; {} here have pre, post or both", kThey);
  if (model.feed_forward.kind == FeedForwardKind::kExperts)
    return fmt::format("model.feed_forward.kind: found experts; {} here have swiglu or geglu", kThey);
  if (model.depth_attention) return fmt::format("model.depth_attention: {} have none", kThey);
  if (model.loop.injection == Injection::kConcat) return fmt::format("model.loop.injection: found concat; {} have no loop", kThey);
  if (!plan.is_plain() || plan.num_calls() != model.blocks)
    return fmt::format("depth plan {}: {} call every block once, in order", plan.print(), kThey);
  return "";
}

// The scale of the embedding and the caps are Gemma's, and its scale is no setting of the class.
bool computes_scales(const Family& family, const ModelConfig& model) {
  if (!family.gemma) return model.embedding_scale == 1 && model.logit_cap == 0 && model.attention.score_cap == 0;
  return std::abs(model.embedding_scale / std::sqrt(static_cast<double>(model.width)) - 1) < 1e-6;
}

bool computes(const Family& family, const ModelConfig& model) {
  const AttentionConfig& attention = model.attention;
  const bool by_layer = family.window == Window::kSwitch || family.window == Window::kAlternate;
  return computes_scales(family, model) && family.feed_forward == model.feed_forward.kind && (by_layer || attention.full_every == 0) &&
         family.norm == model.norm && family.qk_norm == attention.qk_norm && family.qk_norm_over == attention.qk_norm_over &&
         family.qkv_bias == attention.qkv_bias && (family.no_rope || attention.no_rope_every == 0) &&
         (family.window != Window::kNone || attention.window == 0) && (family.llama3 || !attention.rope_scaling);
}

}  // namespace

const Family* stock_family(const ModelConfig& model, const DepthPlan& plan, std::string_view wanted, std::string& why) {
  why = not_a_decoder(model, plan);
  if (!why.empty()) return nullptr;
  const Family* first = family_of(wanted);
  if (first != nullptr && computes(*first, model)) return first;
  for (const Family& family : kFamilies) {
    if (computes(family, model)) return &family;
  }
  why = fmt::format(
      "model.attention: no stock class of transformers has its qk_norm, qk_norm_over, qkv_bias, window, full_every, score_cap, "
      "no_rope_every and rope_scaling together with model.norm: {}, embedding_scale, logit_cap and feed_forward.kind: {}",
      word_of(model.norm), word_of(model.feed_forward.kind));
  return nullptr;
}

}  // namespace meristem
