// config.json: what is read, and that whatever transformers would compute otherwise is refused by file and key.
#include "interop/llama.h"

#include <fstream>

#include "core/errors.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace {

using namespace meristem;

nlohmann::json plain_config() {
  return {{"model_type", "llama"},   {"vocab_size", 61},       {"hidden_size", 32},
          {"intermediate_size", 48}, {"num_hidden_layers", 3}, {"num_attention_heads", 4}};
}

LlamaConfig read(const nlohmann::json& json) {
  const test::TempDir folder;
  std::ofstream(folder / "config.json") << json.dump();
  return read_llama_config(folder.path());
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
  const LlamaConfig config = read(plain_config());
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
  const std::vector<std::pair<std::string, nlohmann::json>> cases{{"model_type", "mistral"},
                                                                  {"hidden_act", "gelu"},
                                                                  {"attention_bias", true},
                                                                  {"mlp_bias", true},
                                                                  {"sliding_window", 4096},
                                                                  {"quantization_config", {{"bits", 4}}},
                                                                  {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
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

TEST_CASE("neutral values are accepted") {
  CHECK(refusal("sliding_window", nullptr) == "accepted");
  CHECK(refusal("attention_bias", false) == "accepted");
  CHECK(refusal("hidden_act", "silu") == "accepted");
  CHECK(refusal("partial_rotary_factor", 1.0) == "accepted");
  CHECK(refusal("pretraining_tp", 1) == "accepted");
}

TEST_CASE("what is written reads back as the same model, other keys kept") {
  LlamaConfig config = read(plain_config());
  config.model.attention.rope_theta = 123456.789;
  const auto json = llama_config_json(config.model, 4096, {{"eos_token_id", 7}, {"rope_interleaved", true}, {"model_type", "other"}});
  CHECK(json.at("eos_token_id") == 7);
  CHECK(json.at("bos_token_id").is_null());
  const LlamaConfig again = read(json);
  CHECK(again.max_positions == 4096);
  CHECK_FALSE(again.rope_interleaved);
  CHECK(again.model.attention.rope_theta == 123456.789);
  CHECK(llama_config_json(again.model, 4096, {}) == llama_config_json(config.model, 4096, {}));
}

}  // namespace
