#include "interop/weight_files.h"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/file.h"
#include "interop/element_types.h"

namespace meristem {
namespace {

constexpr std::array<WeightType, 3> kTypes{
    {{"fp32", "float32", Dtype::kF32}, {"bf16", "bfloat16", Dtype::kBF16}, {"fp16", "float16", Dtype::kF16}}};

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

}  // namespace

const WeightType& weight_type(const std::string& asked, const nlohmann::ordered_json& base) {
  for (const WeightType& type : kTypes) {
    if (asked == type.ours) return type;
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (asked.empty() && base.contains(key) && base.at(key) == type.theirs) return type;
    }
  }
  if (!asked.empty()) throw InputError(fmt::format("--dtype: found {}; allowed: fp32, bf16, fp16", asked));
  return kTypes[0];
}

WeightFiles write_weight_files(const SafetensorsFile& weights, const std::vector<LlamaPart>& parts, Dtype dtype, std::uint64_t shard_bytes,
                               const std::filesystem::path& folder) {
  const auto shards = shards_of(parts, dtype_bytes(dtype), shard_bytes);
  if (shards.size() == 1) return {1, write_shard(weights, shards[0], dtype, folder / "model.safetensors")};
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
  return {shards.size(), overflows};
}

}  // namespace meristem
