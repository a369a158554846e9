#include "interop/code_export.h"

namespace meristem {
namespace {

nlohmann::ordered_json feed_forward_json(const FeedForwardConfig& ff) {
  if (ff.kind == FeedForwardKind::kSwiglu) return {{"kind", word_of(ff.kind)}, {"inner", ff.inner}};
  return {{"kind", word_of(ff.kind)}, {"inner", ff.inner},   {"count", ff.count},
          {"active", ff.active},      {"shared", ff.shared}, {"router_dim", ff.router_dim}};
}

nlohmann::ordered_json depth_attention_json(const std::optional<DepthAttentionConfig>& depth) {
  if (!depth) return nullptr;
  if (depth->kind != DepthAttentionKind::kSeparate) return {{"kind", word_of(depth->kind)}};
  return {{"kind", word_of(depth->kind)},
          {"heads", depth->heads},
          {"keys", word_of(depth->keys.value())},
          {"position", word_of(depth->position.value())}};
}

nlohmann::ordered_json config_json(const ModelConfig& model, const std::string& plan, std::int64_t positions,
                                   const nlohmann::ordered_json& base) {
  nlohmann::ordered_json json = {{"architectures", {"MeristemForCausalLM"}}, {"model_type", "meristem"}};
  json["auto_map"] = {{"AutoConfig", "modeling_meristem.MeristemConfig"},
                      {"AutoModelForCausalLM", "modeling_meristem.MeristemForCausalLM"}};
  json["depth_plan"] = plan;
  json["repeats"] = nullptr;
  json["num_blocks"] = model.blocks;
  json["injection"] = word_of(model.loop.injection);
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.width;
  json["num_attention_heads"] = model.attention.heads;
  json["num_key_value_heads"] = model.attention.kv_heads;
  json["head_dim"] = model.attention.head_dim;
  json["rope_base"] = model.attention.rope_theta;
  json["qk_norm"] = model.attention.qk_norm;
  json["norm"] = word_of(model.norm);
  json["rms_norm_eps"] = model.norm_eps;
  json["feed_forward"] = feed_forward_json(model.feed_forward);
  json["depth_attention"] = depth_attention_json(model.depth_attention);
  json["tie_word_embeddings"] = model.tie_embeddings;
  json["max_position_embeddings"] = positions;
  for (const char* token : {"bos_token_id", "eos_token_id", "pad_token_id"}) json[token] = base.contains(token) ? base.at(token) : nullptr;
  return json;
}

}  // namespace

HfExported export_with_code(const SafetensorsFile& weights, const ModelConfig& model, const std::string& plan, std::int64_t sequence_length,
                            const HfExport& options, const std::filesystem::path& out) {
  std::vector<WeightPart> parts;
  for (const TensorView& tensor : weights.tensors()) parts.push_back({tensor.name, tensor.name, tensor.shape});
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, parts, config_json(model, plan, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {{"modeling_meristem.py", kModelingCode}}, out);
}

}  // namespace meristem
