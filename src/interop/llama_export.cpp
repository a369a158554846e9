#include "interop/llama_export.h"

#include <algorithm>
#include <array>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "checkpoint/pending_folder.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "interop/companions.h"
#include "interop/element_types.h"
#include "interop/llama_config.h"
#include "interop/llama_parts.h"

namespace meristem {
namespace {

struct NamedType {
  const char* ours;
  const char* theirs;
  Dtype dtype;
};
constexpr std::array<NamedType, 3> kTypes{
    {{"fp32", "float32", Dtype::kF32}, {"bf16", "bfloat16", Dtype::kBF16}, {"fp16", "float16", Dtype::kF16}}};

void refuse_other_models(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<LlamaPart>& parts) {
  const std::string file = weights.path().string();
  if (model.architecture != "decoder")
    throw InputError(fmt::format("{}: model.architecture: found {}; LlamaForCausalLM is a decoder", file, model.architecture));
  if (model.attention.qk_norm)
    throw InputError(fmt::format("{}: model.attention.qk_norm: LlamaForCausalLM has no norms of queries and keys", file));
  std::set<std::string> known;
  for (const LlamaPart& part : parts) known.insert(part.ours);
  for (const TensorView& tensor : weights.tensors()) {
    if (!known.contains(tensor.name))
      throw InputError(fmt::format("{}: tensor {}: LlamaForCausalLM has no place for it", file, tensor.name));
  }
}

// What the model came with; empty where there is none, or that of something else.
nlohmann::ordered_json base_config(const std::filesystem::path& companions) {
  std::error_code ignored;
  const std::filesystem::path path = companions / "config.json";
  if (companions.empty() || !std::filesystem::exists(path, ignored)) return nlohmann::ordered_json::object();
  const std::string text = read_file(path);
  const nlohmann::json strict = parse_json_strict(text, path.string());
  if (!strict.is_object() || !strict.contains("model_type") || strict.at("model_type") != "llama") return nlohmann::ordered_json::object();
  return nlohmann::ordered_json::parse(text);  // in the order of the file
}

const NamedType& type_of(const std::string& asked, const nlohmann::ordered_json& base) {
  for (const NamedType& type : kTypes) {
    if (asked == type.ours) return type;
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (asked.empty() && base.contains(key) && base.at(key) == type.theirs) return type;
    }
  }
  if (!asked.empty()) throw InputError(fmt::format("--dtype: found {}; allowed: fp32, bf16, fp16", asked));
  return kTypes[0];
}

// The rows of a part, where our file has them.
TensorView part_view(const SafetensorsFile& weights, const LlamaPart& part) {
  const TensorView& tensor = weights.at(part.ours);
  const std::int64_t columns = part.row_elements();
  std::int64_t total = 1;
  for (const std::int64_t size : tensor.shape) total *= size;
  if (tensor.dtype != Dtype::kF32 || total < part.first_row * columns + part.elements()) {
    throw DamagedError(fmt::format("{}: tensor {}: {} of shape [{}] does not hold {}", weights.path().string(), tensor.name,
                                   dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "), part.theirs));
  }
  const auto* rows = static_cast<const std::byte*>(tensor.data) + part.first_row * columns * static_cast<std::int64_t>(sizeof(float));
  return {part.theirs, Dtype::kF32, part.shape, rows};
}

// Parts by file, each file at most about `bytes` long.
std::vector<std::vector<const LlamaPart*>> shards_of(const std::vector<LlamaPart>& parts, std::size_t element_bytes, std::uint64_t bytes) {
  std::vector<std::vector<const LlamaPart*>> shards(1);
  std::uint64_t held = 0;
  for (const LlamaPart& part : parts) {
    const std::uint64_t size = static_cast<std::uint64_t>(part.elements()) * element_bytes;
    if (held > 0 && held + size > bytes) {
      shards.emplace_back();
      held = 0;
    }
    shards.back().push_back(&part);
    held += size;
  }
  return shards;
}

// One file at a time is held in the smaller type; fp32 is written from the mapped checkpoint as it is.
std::int64_t write_shard(const SafetensorsFile& weights, const std::vector<const LlamaPart*>& shard, Dtype dtype,
                         const std::filesystem::path& path) {
  std::vector<TensorView> views;
  std::vector<std::vector<std::byte>> narrowed;
  std::vector<float> aligned;
  std::int64_t overflows = 0;
  for (const LlamaPart* part : shard) {
    TensorView view = part_view(weights, *part);
    if (dtype != Dtype::kF32) {
      aligned.resize(static_cast<std::size_t>(part->elements()));
      widen(view, path.string(), aligned);
      auto& bytes = narrowed.emplace_back(aligned.size() * dtype_bytes(dtype));
      overflows += narrow(aligned, dtype, bytes);
      view.dtype = dtype;
      view.data = bytes.data();
    }
    views.push_back(std::move(view));
  }
  write_safetensors(path, views, {{"format", "pt"}});
  return overflows;
}

std::int64_t write_weights(const SafetensorsFile& weights, const std::vector<std::vector<const LlamaPart*>>& shards, Dtype dtype,
                           const std::filesystem::path& folder) {
  if (shards.size() == 1) return write_shard(weights, shards[0], dtype, folder / "model.safetensors");
  std::int64_t overflows = 0, bytes = 0;
  nlohmann::json map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    overflows += write_shard(weights, shards[i], dtype, folder / name);
    for (const LlamaPart* part : shards[i]) {
      map[part->theirs] = name;
      bytes += part->elements() * static_cast<std::int64_t>(dtype_bytes(dtype));
    }
  }
  const nlohmann::json index{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}};
  write_file_durably(folder / "model.safetensors.index.json", index.dump(2) + "\n");
  return overflows;
}

}  // namespace

LlamaExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length,
                           const LlamaExport& options, const std::filesystem::path& out) {
  std::error_code ignored;
  if (std::filesystem::exists(out, ignored)) throw InputError(fmt::format("{}: exists; choose another --out", out.string()));
  const std::vector<LlamaPart> parts = llama_parts(model);
  refuse_other_models(weights, model, parts);
  const nlohmann::ordered_json base = base_config(options.companions);
  const NamedType& type = type_of(options.dtype, base);
  const bool knows_positions = base.contains("max_position_embeddings") && base.at("max_position_embeddings").is_number_integer();
  const std::int64_t positions = std::max(sequence_length, knows_positions ? base.at("max_position_embeddings").get<std::int64_t>() : 0);
  const auto shards = shards_of(parts, dtype_bytes(type.dtype), options.shard_bytes);

  PendingFolder folder(out);
  LlamaExported result;
  result.dtype = type.ours;
  result.files = shards.size();
  result.overflows = write_weights(weights, shards, type.dtype, folder.path());
  if (!options.companions.empty()) result.companions = copy_companions(options.companions, folder.path(), /*config=*/false);
  write_file_durably(folder.path() / "config.json", llama_config_json(model, positions, type.theirs, base).dump(2) + "\n");
  folder.publish();
  return result;
}

}  // namespace meristem
