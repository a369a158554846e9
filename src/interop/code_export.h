// Any model of ours as a folder that transformers loads with trust_remote_code: our tensors by our names, and modeling_meristem.py to
// compute them.
#pragma once

#include <filesystem>

#include "checkpoint/safetensors.h"
#include "config/run_config.h"
#include "core/model_part.h"
#include "interop/hf_folder.h"

namespace meristem {

// The text of modeling_meristem.py, a part of this program.
extern const char* const kModelingCode;

// `model.blocks` and `plan`, the text with its loop as a group, are the checkpoint's; `parts` are the mixers of a block, as its model says.
// config.json carries the plan, and loading may give another one (depth_plan=, repeats=). InputError: `out` exists, a part that
// transformers cannot compute; DamagedError: tensors that are not fp32.
HfExported export_with_code(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<ModelPart>& parts,
                            const std::string& plan, std::int64_t sequence_length, const HfExport& options,
                            const std::filesystem::path& out);

}  // namespace meristem
