// A plain decoder of ours as a folder that stock transformers loads as LlamaForCausalLM.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "config/run_config.h"

namespace meristem {

struct LlamaExport {
  std::filesystem::path companions;  // folder with tokenizer, chat template and config.json (token ids, dtype) to carry along; empty: none
  std::string dtype;                 // fp32 | bf16 | fp16; empty: that of the companions' config.json, else fp32
  std::uint64_t shard_bytes = 5'000'000'000;
};

struct LlamaExported {
  std::string dtype;
  std::vector<std::string> companions;  // names of the files carried along
  std::size_t files = 0;
  std::int64_t overflows = 0;  // finite weights that became infinite in the smaller type
};

// Writes the folder `out`; it appears whole or not at all. `model.blocks` is the checkpoint's, and its plan must be plain (the caller
// knows). InputError: `out` exists; another architecture than decoder, QK norm, or tensors that LlamaForCausalLM has no place for.
LlamaExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length,
                           const LlamaExport& options, const std::filesystem::path& out);

}  // namespace meristem
