// config.json of a Llama-shaped Hugging Face folder, and the model that it describes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "config/run_config.h"

namespace meristem {

struct LlamaConfig {
  ModelConfig model;               // architecture decoder, a plain plan
  std::int64_t max_positions = 0;  // max_position_embeddings
  bool rope_interleaved = false;   // query and key rows in pairs (2i, 2i+1) and not in halves (i, i + head_dim/2)
};

// Reads FOLDER/config.json. InputError that names the file and the key where the model is not Llama's: another model type or activation,
// biases, scaled or partial RoPE, sliding windows, experts, quantization. DamagedError where the JSON is broken or a key mistyped.
LlamaConfig read_llama_config(const std::filesystem::path& folder);

// config.json of `model` for stock transformers. Keys of `base`, the config.json that the model came with or an empty object, are kept
// where they do not describe the shape (token ids, names). dtype: "float32", "bfloat16" or "float16".
nlohmann::ordered_json llama_config_json(const ModelConfig& model, std::int64_t max_positions, const nlohmann::ordered_json& base);

}  // namespace meristem
