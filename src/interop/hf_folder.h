// What the two forms of an exported Hugging Face folder share: weights, config.json, tokenizer and chat template; whole or not there at
// all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "interop/llama_parts.h"
#include "interop/weight_files.h"

namespace meristem {

struct HfExport {
  std::filesystem::path companions;  // folder with tokenizer, chat template and config.json (token ids, dtype) to carry along; empty: none
  std::string dtype;                 // fp32 | bf16 | fp16; empty: that of the companions' config.json, else fp32
  std::uint64_t shard_bytes = 5'000'000'000;
};

struct HfExported {
  std::string dtype;
  std::vector<std::string> companions;  // names of the files carried along
  std::size_t files = 0;
  std::int64_t overflows = 0;  // finite weights that became infinite in the smaller type
};

// What the model came with: the companions' config.json. Empty where there is none, or that of something else than a Llama.
nlohmann::ordered_json base_config(const std::filesystem::path& companions);

// Positions that the exported model may be asked for: those it was trained with, or came with.
std::int64_t export_positions(std::int64_t sequence_length, const nlohmann::ordered_json& base);

// `config` without dtype, which is added. `texts`: further files by name. InputError: `out` exists.
HfExported write_hf_folder(const SafetensorsFile& weights, const std::vector<LlamaPart>& parts, nlohmann::ordered_json config,
                           const WeightType& type, const HfExport& options, const std::vector<std::pair<std::string, std::string>>& texts,
                           const std::filesystem::path& out);

}  // namespace meristem
