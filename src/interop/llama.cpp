#include "interop/llama.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "interop/element_types.h"
#include "interop/hf_folder.h"

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

std::vector<WeightPart> llama_parts(const ModelConfig& model) {
  const AttentionConfig& attention = model.attention;
  const std::int64_t width = model.width, inner = model.feed_forward.inner, query = attention.heads * attention.head_dim,
                     kv = attention.kv_heads * attention.head_dim;
  std::vector<WeightPart> parts{{"model.embed_tokens.weight", "embedding.weight", {model.vocab_size, width}}};
  for (std::int64_t i = 0; i < model.blocks; ++i) {
    const std::string theirs = fmt::format("model.layers.{}.", i), ours = fmt::format("blocks.{}.", i);
    parts.push_back({theirs + "input_layernorm.weight", ours + "attention.norm.weight", {width}});
    parts.push_back({theirs + "self_attn.q_proj.weight", ours + "attention.qkv.weight", {query, width}, 0, attention.heads});
    parts.push_back({theirs + "self_attn.k_proj.weight", ours + "attention.qkv.weight", {kv, width}, query, attention.kv_heads});
    parts.push_back({theirs + "self_attn.v_proj.weight", ours + "attention.qkv.weight", {kv, width}, query + kv});
    parts.push_back({theirs + "self_attn.o_proj.weight", ours + "attention.output.weight", {width, query}});
    parts.push_back({theirs + "post_attention_layernorm.weight", ours + "feed_forward.norm.weight", {width}});
    parts.push_back({theirs + "mlp.gate_proj.weight", ours + "feed_forward.gate_up.weight", {inner, width}});
    parts.push_back({theirs + "mlp.up_proj.weight", ours + "feed_forward.gate_up.weight", {inner, width}, inner});
    parts.push_back({theirs + "mlp.down_proj.weight", ours + "feed_forward.down.weight", {width, inner}});
  }
  parts.push_back({"model.norm.weight", "norm.weight", {width}});
  if (!model.tie_embeddings) parts.push_back({"lm_head.weight", "head.weight", {model.vocab_size, width}});
  return parts;
}

std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, within = row % head_dim;
  return head * head_dim + within / 2 + (within % 2) * (head_dim / 2);
}

namespace {

constexpr const char* kHead = "lm_head.weight";

// Old files keep RoPE's frequencies as a tensor; they follow from the config.
bool follows_from_config(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

void refuse_unknown_tensors(const TensorFolder& folder, const std::vector<WeightPart>& parts, bool tied) {
  std::vector<std::string> known;
  for (const WeightPart& part : parts) known.push_back(part.theirs);
  if (tied) known.emplace_back(kHead);
  std::sort(known.begin(), known.end());
  for (const std::string& name : folder.names()) {
    if (follows_from_config(name) || std::binary_search(known.begin(), known.end(), name)) continue;
    throw InputError(fmt::format("{}: tensor {}: a Llama of this config has no such tensor", folder.file_of(name), printable(name)));
  }
}

// A file may hold a tied head all the same; it must be the embedding.
void check_tied_head(const TensorFolder& folder) {
  if (!folder.has(kHead)) return;
  const TensorView &head = folder.at(kHead), &embedding = folder.at("model.embed_tokens.weight");
  if (head.dtype == embedding.dtype && head.shape == embedding.shape && std::memcmp(head.data, embedding.data, head.bytes()) == 0) return;
  throw InputError(fmt::format("{}: tensor {} differs from model.embed_tokens.weight, but config.json says tie_word_embeddings: true",
                               folder.file_of(kHead), kHead));
}

void read_part(const TensorFolder& folder, const WeightPart& part, const LlamaConfig& config, float* rows) {
  const TensorView& tensor = folder.at(part.theirs);
  if (tensor.shape != part.shape) {
    throw InputError(fmt::format("{}: tensor {}: found shape [{}], config.json gives [{}]", folder.file_of(part.theirs), part.theirs,
                                 fmt::join(tensor.shape, ", "), fmt::join(part.shape, ", ")));
  }
  const auto elements = static_cast<std::size_t>(part.elements());
  if (!config.rope_interleaved || part.rope_heads == 0) {
    widen(tensor, folder.file_of(part.theirs), {rows, elements});
    return;
  }
  std::vector<float> interleaved(elements);
  widen(tensor, folder.file_of(part.theirs), interleaved);
  const std::int64_t columns = part.row_elements();
  for (std::int64_t row = 0; row < part.shape[0]; ++row) {
    std::copy_n(interleaved.data() + row * columns, columns, rows + half_layout_row(row, config.model.attention.head_dim) * columns);
  }
}

}  // namespace

ImportedLlama import_llama(const std::filesystem::path& folder, std::optional<bool> rope_interleaved) {
  ImportedLlama out;
  out.config = read_llama_config(folder);
  if (rope_interleaved) out.config.rope_interleaved = *rope_interleaved;
  const TensorFolder tensors = TensorFolder::open(folder);
  const ModelConfig& model = out.config.model;
  const std::vector<WeightPart> parts = llama_parts(model);
  refuse_unknown_tensors(tensors, parts, model.tie_embeddings);
  // Every tensor must be there before room is made: a config alone could ask for any amount.
  for (const WeightPart& part : parts) static_cast<void>(tensors.at(part.theirs));
  if (model.tie_embeddings) check_tied_head(tensors);

  for (std::size_t begin = 0, end = 0; begin < parts.size(); begin = end) {
    std::int64_t rows = 0;
    while (end < parts.size() && parts[end].ours == parts[begin].ours) rows += parts[end++].shape[0];
    std::vector<std::int64_t> shape = parts[begin].shape;
    shape[0] = rows;
    std::vector<float>& bytes = out.weights.bytes.emplace_back(static_cast<std::size_t>(rows * parts[begin].row_elements()));
    for (std::size_t i = begin; i < end; ++i)
      read_part(tensors, parts[i], out.config, bytes.data() + parts[i].first_row * parts[i].row_elements());
    out.weights.views.push_back({parts[begin].ours, Dtype::kF32, shape, bytes.data()});
  }
  return out;
}

namespace {

void refuse_other_models(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<WeightPart>& parts) {
  const std::string file = weights.path().string();
  const std::string why = not_a_llama(model, DepthPlan::plain(model.blocks));
  if (!why.empty()) throw InputError(fmt::format("{}: {}", file, why));
  std::set<std::string> known;
  for (const WeightPart& part : parts) known.insert(part.ours);
  for (const TensorView& tensor : weights.tensors()) {
    if (!known.contains(tensor.name))
      throw InputError(fmt::format("{}: tensor {}: LlamaForCausalLM has no place for it", file, tensor.name));
  }
}

}  // namespace

std::string not_a_llama(const ModelConfig& model, const DepthPlan& plan) {
  if (model.architecture != "decoder")
    return fmt::format("model.architecture: found {}; LlamaForCausalLM is a decoder", model.architecture);
  if (model.attention.qk_norm) return "model.attention.qk_norm: LlamaForCausalLM has no norms of queries and keys";
  if (model.norm != Norm::kPre) return fmt::format("model.norm: found {}; LlamaForCausalLM has pre", word_of(model.norm));
  if (model.feed_forward.kind != FeedForwardKind::kSwiglu)
    return fmt::format("model.feed_forward.kind: found {}; LlamaForCausalLM has swiglu", word_of(model.feed_forward.kind));
  if (model.depth_attention) return "model.depth_attention: LlamaForCausalLM has none";
  if (model.loop.injection == Injection::kConcat) return "model.loop.injection: found concat; LlamaForCausalLM has no loop";
  if (!plan.is_plain() || plan.num_calls() != model.blocks)
    return fmt::format("depth plan {}: LlamaForCausalLM calls every block once, in order", plan.print());
  return "";
}

HfExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length, const HfExport& options,
                        const std::filesystem::path& out) {
  const std::vector<WeightPart> parts = llama_parts(model);
  refuse_other_models(weights, model, parts);
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, parts, llama_config_json(model, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {}, out);
}

}  // namespace meristem
