// Weights of ours into the safetensors files of a Hugging Face folder: renamed or not, cut in rows or not, narrowed, sharded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "interop/llama_parts.h"

namespace meristem {

struct WeightType {
  const char* ours;    // fp32
  const char* theirs;  // float32
  Dtype dtype;
};

// The type that `asked` names (fp32 | bf16 | fp16); empty: that of the config.json `base`, else fp32. InputError for another name.
const WeightType& weight_type(const std::string& asked, const nlohmann::ordered_json& base);

struct WeightFiles {
  std::size_t files = 0;
  std::int64_t overflows = 0;  // finite weights that became infinite in the smaller type
};

// model.safetensors in `folder`, or shards of about `shard_bytes` and their index. DamagedError where a tensor does not hold its parts.
WeightFiles write_weight_files(const SafetensorsFile& weights, const std::vector<LlamaPart>& parts, Dtype dtype, std::uint64_t shard_bytes,
                               const std::filesystem::path& folder);

}  // namespace meristem
