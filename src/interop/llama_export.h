// A plain decoder of ours as a folder that stock transformers loads as LlamaForCausalLM.
#pragma once

#include <filesystem>

#include "checkpoint/safetensors.h"
#include "config/run_config.h"
#include "interop/hf_folder.h"

namespace meristem {

// Why LlamaForCausalLM cannot compute `model` under `plan`; empty where it can.
std::string not_a_llama(const ModelConfig& model, const DepthPlan& plan);

// Writes the folder `out`; it appears whole or not at all. `model.blocks` is the checkpoint's, and its plan must be plain (the caller
// knows). InputError: `out` exists; a model that is no Llama, or tensors that LlamaForCausalLM has no place for.
HfExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length, const HfExport& options,
                        const std::filesystem::path& out);

}  // namespace meristem
