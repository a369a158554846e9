#include "interop/code_export.h"

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

nlohmann::ordered_json feed_forward_json(const FeedForwardConfig& ff) {
  if (ff.kind == "swiglu") return {{"kind", ff.kind}, {"inner", ff.inner}};
  return {{"kind", ff.kind},     {"inner", ff.inner},   {"count", ff.count},
          {"active", ff.active}, {"shared", ff.shared}, {"router_dim", ff.router_dim}};
}

nlohmann::ordered_json depth_attention_json(const std::optional<DepthAttentionConfig>& depth) {
  if (!depth) return nullptr;
  if (depth->kind != "separate") return {{"kind", depth->kind}};
  return {{"kind", depth->kind}, {"heads", depth->heads}, {"keys", depth->keys}, {"position", depth->position}};
}

nlohmann::ordered_json mixers_json(const std::vector<ModelPart>& parts) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ModelPart& part : parts) {
    if (part.python_class.empty())
      throw InputError(fmt::format("model: its mixer {} has no code for transformers; allowed: mixers that bring some", part.name));
    list.push_back({part.name, part.python_class});
  }
  return list;
}

// modeling_meristem.py and what the parts add to it.
std::string code_of(const std::vector<ModelPart>& parts) {
  std::string code = kModelingCode;
  for (const ModelPart& part : parts) {
    if (!part.source.empty() && code.find(part.source) == std::string::npos) code += "\n\n" + part.source;
  }
  return code;
}

nlohmann::ordered_json config_json(const ModelConfig& model, const std::vector<ModelPart>& parts, const std::string& plan,
                                   std::int64_t positions, const nlohmann::ordered_json& base) {
  nlohmann::ordered_json json = {{"architectures", {"MeristemForCausalLM"}}, {"model_type", "meristem"}};
  json["auto_map"] = {{"AutoConfig", "modeling_meristem.MeristemConfig"},
                      {"AutoModelForCausalLM", "modeling_meristem.MeristemForCausalLM"}};
  json["depth_plan"] = plan;
  json["repeats"] = nullptr;
  json["num_blocks"] = model.blocks;
  json["injection"] = model.loop.injection;
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.width;
  json["num_attention_heads"] = model.attention.heads;
  json["num_key_value_heads"] = model.attention.kv_heads;
  json["head_dim"] = model.attention.head_dim;
  json["rope_base"] = model.attention.rope_theta;
  json["qk_norm"] = model.attention.qk_norm;
  json["norm"] = model.norm;
  json["rms_norm_eps"] = model.norm_eps;
  json["feed_forward"] = feed_forward_json(model.feed_forward);
  json["depth_attention"] = depth_attention_json(model.depth_attention);
  json["mixers"] = mixers_json(parts);
  json["tie_word_embeddings"] = model.tie_embeddings;
  json["max_position_embeddings"] = positions;
  for (const char* token : {"bos_token_id", "eos_token_id", "pad_token_id"}) json[token] = base.contains(token) ? base.at(token) : nullptr;
  return json;
}

}  // namespace

HfExported export_with_code(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<ModelPart>& parts,
                            const std::string& plan, std::int64_t sequence_length, const HfExport& options,
                            const std::filesystem::path& out) {
  std::vector<WeightPart> tensors;
  for (const TensorView& tensor : weights.tensors()) tensors.push_back({tensor.name, tensor.name, tensor.shape});
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, tensors, config_json(model, parts, plan, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {{"modeling_meristem.py", code_of(parts)}}, out);
}

}  // namespace meristem
