#include <cmath>

#include "interop/families.h"

namespace meristem {

nlohmann::ordered_json rope_scaling_json(const AttentionConfig& attention) {
  if (!attention.rope_scaling) return nullptr;
  const RopeScalingConfig& scaling = *attention.rope_scaling;
  return {{"rope_type", word_of(scaling.kind)},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_positions}};
}

namespace {

using Window = Family::Window;

void write_window(const Family& family, const ModelConfig& model, nlohmann::ordered_json& json) {
  const std::int64_t window = model.attention.window;
  json.erase("layer_types");  // of as many layers as there were
  for (const char* key : {"sliding_window", "use_sliding_window", "max_window_layers"}) json.erase(key);
  if (family.window != Window::kNone)
    json["sliding_window"] = window > 0 ? nlohmann::ordered_json(window) : nlohmann::ordered_json(nullptr);
  if (family.window == Window::kAlternate || model.attention.full_every > 0) {
    for (std::int64_t i = 0; i < model.blocks; ++i)
      json["layer_types"].push_back(model.attention.window_of(i) > 0 ? "sliding_attention" : "full_attention");
  }
  if (family.window != Window::kSwitch) return;
  json["use_sliding_window"] = window > 0;
  json["max_window_layers"] = window > 0 ? 0 : model.blocks;
}

void write_gemma(const Family& family, const ModelConfig& model, nlohmann::ordered_json& json) {
  const auto cap = [](double value) { return value > 0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr); };
  json["hidden_activation"] = family.activation;
  json["attn_logit_softcapping"] = cap(model.attention.score_cap);
  json["final_logit_softcapping"] = cap(model.logit_cap);
  json["query_pre_attn_scalar"] = model.attention.head_dim;  // ours has no other
}

void write_no_rope(const ModelConfig& model, nlohmann::ordered_json& json) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (std::int64_t i = 0; i < model.blocks; ++i) list.push_back(model.attention.turns(i) ? 1 : 0);
  json["no_rope_layers"] = list;
  json.erase("no_rope_layer_interval");
}

void write_rope(const AttentionConfig& attention, nlohmann::ordered_json& json) {
  // Both spellings: transformers 4 reads rope_theta and rope_scaling, transformers 5 rope_parameters.
  json["rope_theta"] = attention.rope_theta;
  json.erase("rope_scaling");
  nlohmann::ordered_json parameters = rope_scaling_json(attention);
  if (parameters.is_null()) {
    parameters = {{"rope_type", "default"}};
  } else {
    json["rope_scaling"] = parameters;
  }
  parameters["rope_theta"] = attention.rope_theta;
  json["rope_parameters"] = parameters;
}

}  // namespace

nlohmann::ordered_json stock_config_json(const Family& family, const ModelConfig& model, std::int64_t max_positions,
                                         const nlohmann::ordered_json& base) {
  nlohmann::ordered_json json = base.is_object() ? base : nlohmann::ordered_json::object();
  json["architectures"] = {family.class_name};
  json["model_type"] = family.model_type;
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.width;
  json["intermediate_size"] = model.feed_forward.inner;
  json["num_hidden_layers"] = model.blocks;
  json["num_attention_heads"] = model.attention.heads;
  json["num_key_value_heads"] = model.attention.kv_heads;
  json["head_dim"] = model.attention.head_dim;
  json["hidden_act"] = family.activation;
  if (family.gemma) write_gemma(family, model, json);
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["max_position_embeddings"] = max_positions;
  json["rms_norm_eps"] = model.norm_eps;
  json["tie_word_embeddings"] = model.tie_embeddings;
  write_rope(model.attention, json);
  write_window(family, model, json);
  if (family.no_rope) write_no_rope(model, json);
  if (family.multipliers) {
    for (const char* key : {"embedding_multiplier", "residual_multiplier", "logits_scaling"}) json[key] = 1.0;
    json["attention_multiplier"] = 1 / std::sqrt(static_cast<double>(model.attention.head_dim));
  }
  for (const char* gone : {"rope_interleaved", "auto_map", "torch_dtype"}) json.erase(gone);
  return json;
}

}  // namespace meristem
