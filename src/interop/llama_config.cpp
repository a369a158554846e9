#include "interop/llama_config.h"

#include <array>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::int64_t kMost = 1 << 28;  // of any count; keeps products of two within 64 bits

class Keys {
 public:
  Keys(const nlohmann::json& document, std::string file) : document_(document), json_(document, file), file_(std::move(file)) {}

  bool given(const std::string& key) const { return json_.has(key) && !document_.at(key).is_null(); }
  std::int64_t count(const std::string& key) const { return json_.at(key).integer(1, kMost); }
  std::int64_t count_or(const std::string& key, std::int64_t otherwise) const { return given(key) ? count(key) : otherwise; }
  double positive_or(const std::string& key, double otherwise) const { return given(key) ? positive(json_.at(key)) : otherwise; }
  bool flag(const std::string& key) const { return given(key) && json_.at(key).boolean(); }

  double positive(const JsonCursor& value) const {
    const double number = value.number();
    if (!(number > 0)) value.fail("expected a number above 0");
    return number;
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& allowed) const {
    throw InputError(fmt::format("{}: {}: found {}; allowed: {}", file_, key, in_quotes(document_.at(key).dump()), allowed));
  }

  // Refused unless absent, null or equal to `neutral`.
  void only(const std::string& key, const nlohmann::json& neutral) const {
    if (given(key) && document_.at(key) != neutral) refuse(key, neutral.is_null() ? "null" : neutral.dump() + " or null");
  }

  JsonCursor at(const std::string& key) const { return json_.at(key); }

 private:
  const nlohmann::json& document_;
  JsonCursor json_;
  std::string file_;
};

// What transformers would compute otherwise than this model does.
void refuse_other_shapes(const Keys& keys) {
  if (keys.at("model_type").text() != "llama") keys.refuse("model_type", "\"llama\"");
  keys.only("hidden_act", "silu");
  for (const char* key : {"attention_bias", "mlp_bias", "use_qk_norm", "qk_norm"}) keys.only(key, false);
  for (const char* key : {"sliding_window", "quantization_config", "num_local_experts", "num_experts", "layer_types",
                          "final_logit_softcapping", "attn_logit_softcapping"}) {
    keys.only(key, nullptr);
  }
  for (const char* key : {"partial_rotary_factor", "embedding_multiplier", "residual_multiplier", "logits_scaling"}) keys.only(key, 1.0);
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
double rope_theta_of(const Keys& keys) {
  const double theta = keys.positive_or("rope_theta", 10000);
  double found = theta;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!keys.given(key)) continue;
    const JsonCursor rope = keys.at(key);
    for (const char* kind : {"rope_type", "type"}) {
      if (rope.has(kind) && rope.at(kind).text() != "default") keys.refuse(key, "null or rope_type \"default\"");
    }
    if (rope.has("partial_rotary_factor") && rope.at("partial_rotary_factor").number() != 1) keys.refuse(key, "partial_rotary_factor 1");
    if (rope.has("rope_theta")) found = keys.positive(rope.at("rope_theta"));
  }
  if (keys.given("rope_theta") && found != theta) keys.refuse("rope_theta", number_text(found) + ", as rope_parameters says");
  return found;
}

}  // namespace

LlamaConfig read_llama_config(const std::filesystem::path& folder) {
  const std::string file = (folder / "config.json").string();
  const nlohmann::json document = parse_json_strict(read_file(file), file);
  const Keys keys(document, file);
  refuse_other_shapes(keys);
  LlamaConfig config;
  ModelConfig& model = config.model;
  model.vocab_size = keys.count("vocab_size");
  model.width = keys.count("hidden_size");
  model.blocks = keys.count("num_hidden_layers");
  model.norm_eps = keys.positive_or("rms_norm_eps", 1e-6);  // missing keys have the defaults of transformers' LlamaConfig
  model.tie_embeddings = keys.flag("tie_word_embeddings");
  AttentionConfig& attention = model.attention;
  attention.heads = keys.count("num_attention_heads");
  attention.kv_heads = keys.count_or("num_key_value_heads", attention.heads);
  if (attention.heads % attention.kv_heads != 0)
    keys.refuse("num_key_value_heads", fmt::format("a divisor of num_attention_heads = {}", attention.heads));
  if (!keys.given("head_dim") && model.width % attention.heads != 0) {
    keys.refuse("num_attention_heads", fmt::format("a divisor of hidden_size = {}", model.width));
  }
  attention.head_dim = keys.count_or("head_dim", model.width / attention.heads);
  if (attention.head_dim % 2 != 0)
    keys.at("hidden_size").fail(fmt::format("gives heads of {}; RoPE needs an even number", attention.head_dim));
  attention.rope_theta = rope_theta_of(keys);
  model.feed_forward.inner = keys.count("intermediate_size");
  config.max_positions = keys.count_or("max_position_embeddings", 2048);
  config.rope_interleaved = keys.flag("rope_interleaved");
  return config;
}

nlohmann::ordered_json llama_config_json(const ModelConfig& model, std::int64_t max_positions, const nlohmann::ordered_json& base) {
  nlohmann::ordered_json json = base.is_object() ? base : nlohmann::ordered_json::object();
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.width;
  json["intermediate_size"] = model.feed_forward.inner;
  json["num_hidden_layers"] = model.blocks;
  json["num_attention_heads"] = model.attention.heads;
  json["num_key_value_heads"] = model.attention.kv_heads;
  json["head_dim"] = model.attention.head_dim;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["max_position_embeddings"] = max_positions;
  json["rms_norm_eps"] = model.norm_eps;
  json["tie_word_embeddings"] = model.tie_embeddings;
  // Both spellings: transformers 4 reads rope_theta, transformers 5 rope_parameters.
  json["rope_theta"] = model.attention.rope_theta;
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", model.attention.rope_theta}};
  for (const char* gone : {"rope_scaling", "rope_interleaved", "auto_map", "torch_dtype"}) json.erase(gone);
  // transformers' own defaults would name tokens that the tokenizer may use otherwise.
  for (const char* token : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (!json.contains(token)) json[token] = nullptr;
  }
  return json;
}

}  // namespace meristem
