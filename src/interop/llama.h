// A Llama-shaped Hugging Face folder as a model of ours, and a plain decoder of ours as a folder that stock transformers loads as
// LlamaForCausalLM: config.json both ways, and one list of which rows of our tensors are which of theirs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "config/run_config.h"
#include "interop/hf_folder.h"

namespace meristem {

// What config.json of such a folder says.
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

// All tensors of `model` with `model.blocks` blocks; the parts of one of ours stand together, in the order of their rows.
// RoPE is in halves in both, so that no row moves: (i, i + head_dim/2) is a pair.
std::vector<WeightPart> llama_parts(const ModelConfig& model);

// Row of the half layout where row `row` of the interleaved layout goes: pair (2i, 2i+1) of a head becomes (i, i + head_dim/2).
std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim);

struct ImportedTensors {
  std::vector<TensorView> views;          // by our names, fp32
  std::vector<std::vector<float>> bytes;  // what they point into
};

struct ImportedLlama {
  LlamaConfig config;
  ImportedTensors weights;
};

// Reads the whole model. `rope_interleaved` overrides what config.json says about the order of query and key rows.
// InputError: not Llama-shaped, a tensor missing, unknown or of another shape; tied embeddings whose lm_head.weight differs. DamagedError:
// damaged files.
ImportedLlama import_llama(const std::filesystem::path& folder, std::optional<bool> rope_interleaved = std::nullopt);

// Why LlamaForCausalLM cannot compute `model` under `plan`; empty where it can.
std::string not_a_llama(const ModelConfig& model, const DepthPlan& plan);

// Writes the folder `out`; it appears whole or not at all. `model.blocks` is the checkpoint's, and its plan must be plain (the caller
// knows). InputError: `out` exists; a model that is no Llama, or tensors that LlamaForCausalLM has no place for.
HfExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length, const HfExport& options,
                        const std::filesystem::path& out);

}  // namespace meristem
