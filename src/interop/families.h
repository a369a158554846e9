// The model classes of transformers that are decoders like ours, one line each, and what config.json says of such a model, both ways.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "config/run_config.h"

namespace meristem {

// One such class: what it has beside a plain decoder, and what its config means where a key is missing.
struct Family {
  std::string_view model_type, class_name;  // "qwen3", "Qwen3ForCausalLM"
  bool qk_norm = false;                     // always there
  bool qkv_bias = false;                    // always there
  bool no_rope = false;                     // may leave RoPE out of every so manieth layer
  bool packed = false;                      // tensors qkv_proj and gate_up_proj, as ours
  bool multipliers = false;                 // of embedding, residual, scores and logits
  bool llama3 = true;                       // takes RoPE scaled as Llama 3.1 has it
  bool gemma = false;  // gains of norms are 1 + theirs, the embedding is scaled by sqrt(width), scores and logits may be capped
  // sliding_window alone, or behind use_sliding_window, or in every second layer; the last two take layer_types, layer by layer.
  enum class Window { kNone, kKey, kSwitch, kAlternate } window = Window::kNone;
  std::int64_t kv_heads = 0, head_dim = 0;  // 0: as many as heads; hidden_size / heads
  std::int64_t sliding_window = 0, max_positions = 2048;
  double rope_theta = 10000, norm_eps = 1e-6;
  bool tied = false;
  QkNormOver qk_norm_over = QkNormOver::kHeads;
  Norm norm = Norm::kPre;
  FeedForwardKind feed_forward = FeedForwardKind::kSwiglu;
  std::string_view activation = "silu";  // as config.json names it
};

// All of them, in the order in which a model that was born here looks for its class.
std::span<const Family> families();

// The family of a config.json's model_type; null: none of ours.
const Family* family_of(std::string_view model_type);

// By which a model's activations are multiplied. Folded into the weights when it comes in, so that ours has none.
struct Multipliers {
  double embedding = 1, residual = 1, query = 1, logits = 1;
};

// What config.json of such a folder says.
struct StockConfig {
  const Family* family = nullptr;
  ModelConfig model;               // architecture decoder, a plain plan
  std::int64_t max_positions = 0;  // max_position_embeddings
  bool rope_interleaved = false;   // query and key rows in pairs (2i, 2i+1) and not in halves (i, i + head_dim/2)
  bool tied_in_file = false;       // one tensor is embedding and head; the model's are two where multipliers make them differ
  Multipliers multipliers;
};

// Reads FOLDER/config.json. InputError that names the file and the key where the model is none that a decoder of ours computes: another
// activation, biases elsewhere, other scaled or partial RoPE, windows in some layers that are not every so manieth, experts, quantization.
// DamagedError where the JSON is broken or a key mistyped.
StockConfig read_stock_config(const std::filesystem::path& folder);

// The family that computes `model` under `plan`: `wanted`, the model_type that it came with (or empty), where it does, else the first of
// the list. Null where none does, and then `why` says what stands in the way.
const Family* stock_family(const ModelConfig& model, const DepthPlan& plan, std::string_view wanted, std::string& why);

// config.json of `model` for that class. Keys of `base`, the config.json that the model came with or an empty object, are kept where they
// do not describe the shape (token ids, names).
nlohmann::ordered_json stock_config_json(const Family& family, const ModelConfig& model, std::int64_t max_positions,
                                         const nlohmann::ordered_json& base);

// RoPE scaling as config.json writes it; null where there is none.
nlohmann::ordered_json rope_scaling_json(const AttentionConfig& attention);

}  // namespace meristem
