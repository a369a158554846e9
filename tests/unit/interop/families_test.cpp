// config.json: what is read, and that whatever transformers would compute otherwise is refused by file and key.
#include "interop/families.h"

#include <fstream>

#include "core/errors.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace {

using namespace meristem;

const Family& llama_family() { return *family_of("llama"); }

nlohmann::json plain_config() {
  return {{"model_type", "llama"},   {"vocab_size", 61},       {"hidden_size", 32},
          {"intermediate_size", 48}, {"num_hidden_layers", 3}, {"num_attention_heads", 4}};
}

StockConfig read(const nlohmann::json& json) {
  const test::TempDir folder;
  std::ofstream(folder / "config.json") << json.dump();
  return read_stock_config(folder.path());
}

std::string refusal(const std::string& key, const nlohmann::json& value) {
  nlohmann::json json = plain_config();
  json[key] = value;
  try {
    read(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("missing keys have the defaults of transformers") {
  const StockConfig config = read(plain_config());
  CHECK(config.model.norm_eps == 1e-6);
  CHECK(config.model.attention.rope_theta == 10000);
  CHECK(config.model.attention.kv_heads == 4);
  CHECK(config.model.attention.head_dim == 8);
  CHECK(config.max_positions == 2048);
  CHECK_FALSE(config.model.tie_embeddings);
  CHECK_FALSE(config.rope_interleaved);
}

TEST_CASE("RoPE's base is read in both spellings") {
  nlohmann::json json = plain_config();
  json["rope_theta"] = 5e5;
  json["rope_scaling"] = nullptr;
  CHECK(read(json).model.attention.rope_theta == 5e5);
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  CHECK(read(json).model.attention.rope_theta == 1e6);
  json["rope_theta"] = 5e5;
  CHECK_THROWS_AS(read(json), InputError);
}

TEST_CASE("what is not Llama's is refused by file and key") {
  const std::vector<std::pair<std::string, nlohmann::json>> cases{{"model_type", "gpt2"},
                                                                  {"hidden_act", "gelu"},
                                                                  {"attention_bias", true},
                                                                  {"mlp_bias", true},
                                                                  {"sliding_window", 4096},
                                                                  {"quantization_config", {{"bits", 4}}},
                                                                  {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
                                                                  {"layer_types", {"sliding_attention", "full_attention"}},
                                                                  {"embedding_multiplier", 12},
                                                                  {"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
                                                                  {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}},
                                                                  {"partial_rotary_factor", 0.5},
                                                                  {"num_local_experts", 8},
                                                                  {"num_key_value_heads", 3},
                                                                  {"num_attention_heads", 5},
                                                                  {"head_dim", 7},
                                                                  {"hidden_size", 0},
                                                                  {"num_hidden_layers", "three"},
                                                                  {"vocab_size", 1e30},
                                                                  {"rms_norm_eps", -1.0}};
  for (const auto& [key, value] : cases) {
    const std::string said = refusal(key, value);
    INFO(key << ": " << said);
    CHECK(said.find("config.json: ") != std::string::npos);
    CHECK((said.find(key) != std::string::npos || key == "head_dim"));
  }
}

StockConfig read_as(const std::string& type, const nlohmann::json& changes) {
  nlohmann::json json = plain_config();
  json["model_type"] = type;
  json["num_key_value_heads"] = 2;
  json.update(changes);
  return read(json);
}

std::string refusal_as(const std::string& type, const nlohmann::json& changes) {
  try {
    read_as(type, changes);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("windows are read where a class has them, by its own rules") {
  CHECK(read_as("mistral", {{"sliding_window", nullptr}}).model.attention.window == 0);
  CHECK(read_as("mistral", {{"sliding_window", 7}}).model.attention.window == 7);
  CHECK(read_as("mistral", nlohmann::json::object()).model.attention.window == 4096);  // transformers' default
  CHECK(read_as("phi3", nlohmann::json::object()).model.attention.window == 0);
  CHECK(read_as("qwen2", {{"sliding_window", 7}}).model.attention.window == 0);
  CHECK(read_as("qwen2", {{"sliding_window", 7}, {"use_sliding_window", true}}).model.attention.window == 0);  // layers from 28 on
  CHECK(read_as("qwen3", {{"sliding_window", 7}, {"use_sliding_window", true}, {"max_window_layers", 0}}).model.attention.window == 7);
  CHECK(refusal_as("qwen3", {{"use_sliding_window", true}, {"max_window_layers", 2}}).find("max_window_layers: found '2'") !=
        std::string::npos);
  CHECK(
      refusal_as("qwen3", {{"layer_types", {"full_attention", "sliding_attention"}}, {"use_sliding_window", true}}).find("layer_types: ") !=
      std::string::npos);
}

TEST_CASE("windows in all layers but every so manieth") {
  const auto read_layers = [](std::vector<std::string> types) {
    return read_as("gemma2", {{"sliding_window", 7}, {"layer_types", std::move(types)}}).model.attention;
  };
  const std::string full = "full_attention", sliding = "sliding_attention";
  CHECK(read_as("gemma2", {{"sliding_window", 7}}).model.attention.full_every == 2);  // as the class has it
  CHECK(read_layers({sliding, full, sliding}).full_every == 2);
  CHECK(read_layers({sliding, sliding, full}).full_every == 3);
  CHECK((read_layers({sliding, sliding, sliding}).full_every == 0 && read_layers({sliding, sliding, sliding}).window == 7));
  CHECK(read_layers({full, full, full}).window == 0);
  CHECK(refusal_as("gemma2", {{"layer_types", {full, sliding, sliding}}}).find("layer_types: found") != std::string::npos);
  CHECK(refusal_as("gemma2", {{"layer_types", {sliding, full}}}).find("layer_types: found") != std::string::npos);
  CHECK(refusal_as("mistral", {{"layer_types", {sliding, full, sliding}}}).find("layer_types: found") != std::string::npos);
  CHECK(refusal_as("llama", {{"layer_types", {sliding, full, sliding}}}).find("layer_types: found") != std::string::npos);
}

TEST_CASE("what a family always has, and its defaults") {
  CHECK(read_as("qwen3", {{"head_dim", nullptr}}).model.attention.qk_norm);
  CHECK(read_as("qwen3", nlohmann::json::object()).model.attention.head_dim == 128);
  CHECK(read_as("qwen2", nlohmann::json::object()).model.attention.qkv_bias);
  CHECK(read_as("smollm3", nlohmann::json::object()).model.attention.no_rope_every == 4);
  CHECK(read_as("smollm3", nlohmann::json::object()).model.attention.rope_theta == 2e6);
  CHECK(read_as("smollm3", {{"no_rope_layers", {1, 0, 1}}}).model.attention.no_rope_every == 2);
  CHECK(read_as("smollm3", {{"no_rope_layers", {1, 1, 1}}}).model.attention.no_rope_every == 0);
  CHECK(refusal_as("smollm3", {{"no_rope_layers", {0, 1, 1}}}).find("no_rope_layers: ") != std::string::npos);
  const StockConfig granite = read_as("granite", {{"embedding_multiplier", 12}, {"logits_scaling", 8}, {"tie_word_embeddings", true}});
  CHECK(granite.tied_in_file);
  CHECK_FALSE(granite.model.tie_embeddings);
  CHECK(granite.multipliers.logits == 0.125);
  const StockConfig olmo2 = read_as("olmo2", nlohmann::json::object());
  CHECK((olmo2.model.norm == Norm::kPost && olmo2.model.attention.qk_norm && olmo2.model.attention.qk_norm_over == QkNormOver::kAll));
  CHECK(olmo2.model.norm_eps == 1e-5);
  const StockConfig gemma = read_as("gemma2", {{"query_pre_attn_scalar", 64}, {"final_logit_softcapping", nullptr}});
  CHECK((gemma.model.norm == Norm::kBoth && gemma.model.feed_forward.kind == FeedForwardKind::kGeglu && gemma.model.tie_embeddings));
  CHECK((gemma.model.attention.score_cap == 50 && gemma.model.logit_cap == 0));
  CHECK(gemma.model.embedding_scale == std::sqrt(static_cast<double>(gemma.model.width)));
  CHECK(gemma.multipliers.query == 2);  // heads of 256
  CHECK(refusal_as("gemma2", {{"hidden_activation", "silu"}}).find("hidden_activation: found") != std::string::npos);
  CHECK(refusal_as("olmo2", {{"attention_bias", true}}).find("attention_bias: found") != std::string::npos);
  CHECK(refusal_as("olmo2", {{"clip_qkv", 8.0}}).find("clip_qkv: found") != std::string::npos);
}

TEST_CASE("a refusal names the key that stands in the way, whatever the model's type") {
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{{"attn_logit_softcapping", 50.0},
                                                                                      {"num_local_experts", 8},
                                                                                      {"hidden_activation", "gelu_pytorch_tanh"},
                                                                                      {"logit_scale", 0.06},
                                                                                      {"partial_rotary_factor", 0.25}}) {
    CHECK(refusal_as("other", {{key, value}}).find("config.json: " + key + ": found") != std::string::npos);
  }
  CHECK(refusal_as("other", nlohmann::json::object()).find("model_type: found '\"other\"'; allowed: llama, mistral") != std::string::npos);
}

TEST_CASE("the class of a model is the one that it came with, else the first that computes it") {
  ModelConfig model = read(plain_config()).model;
  std::string why;
  const auto name = [&](std::string_view wanted) {
    const Family* family = stock_family(model, DepthPlan::plain(3), wanted, why);
    return family == nullptr ? std::string_view("none") : family->model_type;
  };
  CHECK(name("") == "llama");
  CHECK(name("granite") == "granite");
  CHECK(name("qwen3") == "llama");  // it would norm queries and keys
  model.attention.window = 8;
  CHECK(name("") == "mistral");
  CHECK(name("phi3") == "phi3");
  model.attention.qk_norm = true;
  CHECK(name("phi3") == "qwen3");
  model.attention.no_rope_every = 4;
  CHECK(name("") == "none");
  CHECK(why.find("model.attention: ") == 0);
  model.norm = Norm::kSandwich;
  CHECK(name("") == "none");
  CHECK(why.find("model.norm: found sandwich") == 0);
  model.attention = read(plain_config()).model.attention;
  model.norm = Norm::kPost;
  CHECK(name("olmo2") == "none");  // it would norm queries and keys
  CHECK(why.find("together with model.norm: post") != std::string::npos);
  model.attention.qk_norm = true;
  CHECK(name("qwen3") == "none");
  model.attention.qk_norm_over = QkNormOver::kAll;
  CHECK(name("qwen3") == "olmo2");
  model.norm = Norm::kPre;
  CHECK(name("") == "none");
  CHECK(why.find("qk_norm_over") != std::string::npos);
  model = read_as("gemma2", nlohmann::json::object()).model;
  CHECK(name("") == "gemma2");
  model.embedding_scale = 1;
  CHECK(name("gemma2") == "none");
  CHECK(why.find("embedding_scale") != std::string::npos);
}

TEST_CASE("neutral values are accepted") {
  CHECK(refusal("sliding_window", nullptr) == "accepted");
  CHECK(refusal("attention_bias", false) == "accepted");
  CHECK(refusal("hidden_act", "silu") == "accepted");
  CHECK(refusal("partial_rotary_factor", 1.0) == "accepted");
  CHECK(refusal("pretraining_tp", 1) == "accepted");
}

TEST_CASE("what is written reads back as the same model, other keys kept") {
  StockConfig config = read(plain_config());
  config.model.attention.rope_theta = 123456.789;
  const auto json =
      stock_config_json(llama_family(), config.model, 4096, {{"eos_token_id", 7}, {"rope_interleaved", true}, {"model_type", "other"}});
  CHECK(json.at("eos_token_id") == 7);
  const StockConfig again = read(json);
  CHECK(again.max_positions == 4096);
  CHECK_FALSE(again.rope_interleaved);
  CHECK(again.model.attention.rope_theta == 123456.789);
  CHECK(stock_config_json(llama_family(), again.model, 4096, {}) == stock_config_json(llama_family(), config.model, 4096, {}));
}

}  // namespace
