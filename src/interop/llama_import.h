// A Llama-shaped Hugging Face folder as a model of ours.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "interop/llama_config.h"

namespace meristem {

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

}  // namespace meristem
