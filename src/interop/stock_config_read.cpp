#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "interop/families.h"

namespace meristem {
namespace {

using Window = Family::Window;

constexpr std::int64_t kMost = 1 << 28;  // of any count; keeps products of two within 64 bits

class Keys {
 public:
  Keys(const nlohmann::json& document, std::string file) : document_(document), json_(document, file), file_(std::move(file)) {}

  bool named(const std::string& key) const { return json_.has(key); }
  bool given(const std::string& key) const { return json_.has(key) && !document_.at(key).is_null(); }
  std::int64_t count(const std::string& key) const { return json_.at(key).integer(1, kMost); }
  std::int64_t count_or(const std::string& key, std::int64_t otherwise) const { return given(key) ? count(key) : otherwise; }
  double positive_or(const std::string& key, double otherwise) const { return given(key) ? positive(json_.at(key)) : otherwise; }
  bool flag_or(const std::string& key, bool otherwise) const { return given(key) ? json_.at(key).boolean() : otherwise; }

  double positive(const JsonCursor& value) const {
    const double number = value.number();
    if (!(number > 0)) value.fail("expected a number above 0");
    return number;
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& allowed) const {
    const std::string found = json_.has(key) ? in_quotes(document_.at(key).dump().substr(0, 200)) : "nothing";
    throw InputError(fmt::format("{}: {}: found {}; allowed: {}", file_, key, found, allowed));
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

// What transformers would compute otherwise than a decoder of ours, in a family that we know (`family`) or not.
void refuse_other_shapes(const Keys& keys, const Family* family) {
  const bool gemma = family != nullptr && family->gemma;
  for (const char* key : {"hidden_act", "hidden_activation", "activation_function"})
    keys.only(key, family == nullptr ? "silu" : family->activation);
  for (const char* key : {"attention_bias", "mlp_bias", "use_bias", "use_bidirectional_attention", "is_encoder_decoder"})
    keys.only(key, false);
  if (family == nullptr || !family->qk_norm) {
    for (const char* key : {"use_qk_norm", "qk_norm"}) keys.only(key, false);
  }
  for (const char* key : {"quantization_config", "num_local_experts", "num_experts", "n_routed_experts", "clip_qkv", "logit_scale",
                          "per_layer_config", "kv_lora_rank"}) {
    keys.only(key, nullptr);
  }
  if (!gemma) {
    for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping", "query_pre_attn_scalar"}) keys.only(key, nullptr);
  }
  keys.only("partial_rotary_factor", 1.0);
  if (family == nullptr || !family->multipliers) {
    for (const char* key : {"embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"}) keys.only(key, 1.0);
  }
  if (family != nullptr && family->window == Window::kNone) {
    keys.only("use_sliding_window", false);
    if (!family->no_rope) keys.only("sliding_window", nullptr);  // SmolLM3's means nothing without the switch
  }
}

const Family& known_family(const Keys& keys) {
  const std::string type = keys.at("model_type").text();
  const Family* family = family_of(type);
  refuse_other_shapes(keys, family);
  if (family != nullptr) return *family;
  std::vector<std::string_view> known;
  for (const Family& one : families()) known.push_back(one.model_type);
  keys.refuse("model_type", fmt::format("{}", fmt::join(known, ", ")));
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
void read_rope(const Keys& keys, const Family& family, AttentionConfig& attention) {
  const double theta = keys.positive_or("rope_theta", family.rope_theta);
  attention.rope_theta = theta;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!keys.given(key)) continue;
    const JsonCursor rope = keys.at(key);
    std::string type = "default";
    for (const char* kind : {"type", "rope_type"}) {
      if (rope.has(kind)) type = rope.at(kind).text();
    }
    if (type != "default" && !(type == "llama3" && family.llama3)) {
      keys.refuse(key, fmt::format("null or rope_type \"default\"{}", family.llama3 ? " or \"llama3\"" : ""));
    }
    if (rope.has("partial_rotary_factor") && rope.at("partial_rotary_factor").number() != 1) keys.refuse(key, "partial_rotary_factor 1");
    if (rope.has("rope_theta")) attention.rope_theta = keys.positive(rope.at("rope_theta"));
    if (type != "llama3") continue;
    attention.rope_scaling = {RopeScalingKind::kLlama3, keys.positive(rope.at("factor")), rope.at("low_freq_factor").number(),
                              keys.positive(rope.at("high_freq_factor")), rope.at("original_max_position_embeddings").integer(1, kMost)};
  }
  if (keys.given("rope_theta") && attention.rope_theta != theta)
    keys.refuse("rope_theta", number_text(attention.rope_theta) + ", as rope_parameters says");
}

// The layers of layer_types that have no window. None: config.json does not say, and then the class does.
std::optional<std::vector<bool>> full_layers(const Keys& keys, std::int64_t blocks) {
  if (!keys.given("layer_types")) return std::nullopt;
  std::vector<bool> full;
  for (const JsonCursor& item : keys.at("layer_types").items()) {
    const std::string type = item.text();
    if (type != "full_attention" && type != "sliding_attention") keys.refuse("layer_types", "full_attention and sliding_attention");
    full.push_back(type == "full_attention");
  }
  if (static_cast<std::int64_t>(full.size()) < blocks) keys.refuse("layer_types", fmt::format("a type for each of {} layers", blocks));
  full.resize(static_cast<std::size_t>(blocks));
  return full;
}

// What the class takes where there is no layer_types.
std::vector<bool> usual_full_layers(const Keys& keys, const Family& family, std::int64_t blocks) {
  std::vector<bool> full(static_cast<std::size_t>(blocks), family.window == Window::kNone);
  const std::int64_t without = family.window != Window::kSwitch  ? 0
                               : keys.given("max_window_layers") ? keys.at("max_window_layers").integer(0, kMost)
                                                                 : 28;
  for (std::int64_t i = 0; i < blocks; ++i) {
    if (i < without || (family.window == Window::kAlternate && i % 2 == 1)) full[static_cast<std::size_t>(i)] = true;
  }
  return full;
}

// attention.window and attention.full_every.
void read_window(const Keys& keys, const Family& family, std::int64_t blocks, AttentionConfig& attention) {
  const bool by_layer = family.window == Window::kSwitch || family.window == Window::kAlternate;
  if (family.window == Window::kSwitch && !keys.flag_or("use_sliding_window", false)) return;
  if (keys.named("sliding_window") && !keys.given("sliding_window")) return;
  const auto given = full_layers(keys, blocks);
  const std::vector<bool> full = given ? *given : usual_full_layers(keys, family, blocks);
  const char* key = given ? "layer_types" : "max_window_layers";
  if (std::find(full.begin(), full.end(), false) == full.end()) return;
  if (family.window == Window::kNone) keys.refuse(key, "full_attention");
  attention.window = keys.count_or("sliding_window", family.sliding_window);
  if (attention.window == 0) return;  // the class has none where the key is missing
  const auto agrees = [&] {
    for (std::int64_t i = 0; i < blocks; ++i) {
      if ((attention.window_of(i) == 0) != full[static_cast<std::size_t>(i)]) return false;
    }
    return true;
  };
  for (; attention.full_every <= (by_layer ? blocks : 0); ++attention.full_every) {
    if (agrees()) return;
  }
  keys.refuse(key, by_layer ? "windows in all layers, in none, or in all but every so manieth" : "windows in all layers, or in none");
}

// SmolLM3's list has a 0 for each layer without RoPE.
std::int64_t read_no_rope(const Keys& keys, const Family& family, std::int64_t blocks) {
  if (!family.no_rope) return 0;
  if (!keys.given("no_rope_layers")) return keys.count_or("no_rope_layer_interval", 4);
  const std::vector<std::int64_t> has_rope = keys.at("no_rope_layers").integers();
  AttentionConfig attention;
  const auto agrees = [&] {
    for (std::int64_t i = 0; i < blocks; ++i) {
      if (attention.turns(i) != (has_rope[static_cast<std::size_t>(i)] != 0)) return false;
    }
    return true;
  };
  if (static_cast<std::int64_t>(has_rope.size()) < blocks)
    keys.refuse("no_rope_layers", fmt::format("a number for each of {} layers", blocks));
  for (attention.no_rope_every = 0; attention.no_rope_every <= blocks; ++attention.no_rope_every) {
    if (agrees()) return attention.no_rope_every;
  }
  keys.refuse("no_rope_layers", "a 0 for every so manieth layer, and 1 elsewhere");
}

Multipliers read_multipliers(const Keys& keys, const Family& family, std::int64_t head_dim) {
  if (family.gemma) {
    const double scalar = keys.positive_or("query_pre_attn_scalar", 256);
    return {1, 1, std::sqrt(static_cast<double>(head_dim) / scalar), 1};
  }
  if (!family.multipliers) return {};
  return {keys.positive_or("embedding_multiplier", 1), keys.positive_or("residual_multiplier", 1),
          keys.positive_or("attention_multiplier", 1) * std::sqrt(static_cast<double>(head_dim)),
          1 / keys.positive_or("logits_scaling", 1)};
}

double read_cap(const Keys& keys, const std::string& key, double otherwise) {
  return keys.named(key) && !keys.given(key) ? 0 : keys.positive_or(key, otherwise);
}

void read_heads(const Keys& keys, const Family& family, ModelConfig& model) {
  AttentionConfig& attention = model.attention;
  attention.heads = keys.count("num_attention_heads");
  const std::int64_t kv_heads = family.kv_heads == 0 || keys.named("num_key_value_heads") ? attention.heads : family.kv_heads;
  attention.kv_heads = keys.count_or("num_key_value_heads", kv_heads);
  if (attention.heads % attention.kv_heads != 0)
    keys.refuse("num_key_value_heads", fmt::format("a divisor of num_attention_heads = {}", attention.heads));
  const std::int64_t head_dim = family.head_dim != 0 && !keys.named("head_dim") ? family.head_dim : model.width / attention.heads;
  if (!keys.given("head_dim") && head_dim == model.width / attention.heads && model.width % attention.heads != 0) {
    keys.refuse("num_attention_heads", fmt::format("a divisor of hidden_size = {}", model.width));
  }
  attention.head_dim = keys.count_or("head_dim", head_dim);
  if (attention.head_dim % 2 != 0)
    keys.at("hidden_size").fail(fmt::format("gives heads of {}; RoPE needs an even number", attention.head_dim));
}

}  // namespace

StockConfig read_stock_config(const std::filesystem::path& folder) {
  const std::string file = (folder / "config.json").string();
  const nlohmann::json document = parse_json_strict(read_file(file), file);
  const Keys keys(document, file);
  const Family& family = known_family(keys);
  StockConfig config;
  config.family = &family;
  ModelConfig& model = config.model;
  model.vocab_size = keys.count("vocab_size");
  model.width = keys.count("hidden_size");
  model.blocks = keys.count("num_hidden_layers");
  model.norm_eps = keys.positive_or("rms_norm_eps", family.norm_eps);
  read_heads(keys, family, model);
  read_rope(keys, family, model.attention);
  model.norm = family.norm;
  model.attention.qk_norm = family.qk_norm;
  model.attention.qk_norm_over = family.qk_norm_over;
  model.attention.qkv_bias = family.qkv_bias;
  read_window(keys, family, model.blocks, model.attention);
  model.attention.no_rope_every = read_no_rope(keys, family, model.blocks);
  model.feed_forward.kind = family.feed_forward;
  model.feed_forward.inner = keys.count("intermediate_size");
  if (family.gemma) {
    model.attention.score_cap = read_cap(keys, "attn_logit_softcapping", 50);
    model.logit_cap = read_cap(keys, "final_logit_softcapping", 30);
    model.embedding_scale = std::sqrt(static_cast<double>(model.width));
  }
  config.max_positions = keys.count_or("max_position_embeddings", family.max_positions);
  config.rope_interleaved = keys.flag_or("rope_interleaved", false);
  config.multipliers = read_multipliers(keys, family, model.attention.head_dim);
  config.tied_in_file = keys.flag_or("tie_word_embeddings", family.tied);
  model.tie_embeddings = config.tied_in_file && config.multipliers.embedding == config.multipliers.logits;
  return config;
}

}  // namespace meristem
