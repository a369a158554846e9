#include "interop/hf_folder.h"

#include <algorithm>

#include <fmt/format.h>

#include "checkpoint/pending_folder.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "interop/companions.h"

namespace meristem {

nlohmann::ordered_json base_config(const std::filesystem::path& companions) {
  std::error_code ignored;
  const std::filesystem::path path = companions / "config.json";
  if (companions.empty() || !std::filesystem::exists(path, ignored)) return nlohmann::ordered_json::object();
  const std::string text = read_file(path);
  const nlohmann::json strict = parse_json_strict(text, path.string());
  if (!strict.is_object() || !strict.contains("model_type") || strict.at("model_type") != "llama") return nlohmann::ordered_json::object();
  return nlohmann::ordered_json::parse(text);  // in the order of the file
}

std::int64_t export_positions(std::int64_t sequence_length, const nlohmann::ordered_json& base) {
  const bool known = base.contains("max_position_embeddings") && base.at("max_position_embeddings").is_number_integer();
  return std::max(sequence_length, known ? base.at("max_position_embeddings").get<std::int64_t>() : 0);
}

HfExported write_hf_folder(const SafetensorsFile& weights, const std::vector<LlamaPart>& parts, nlohmann::ordered_json config,
                           const WeightType& type, const HfExport& options, const std::vector<std::pair<std::string, std::string>>& texts,
                           const std::filesystem::path& out) {
  std::error_code ignored;
  if (std::filesystem::exists(out, ignored)) throw InputError(fmt::format("{}: exists; choose another --out", out.string()));
  PendingFolder folder(out);
  HfExported result;
  result.dtype = type.ours;
  const WeightFiles files = write_weight_files(weights, parts, type.dtype, options.shard_bytes, folder.path());
  result.files = files.files;
  result.overflows = files.overflows;
  if (!options.companions.empty()) result.companions = copy_companions(options.companions, folder.path(), /*config=*/false);
  // Both spellings: transformers 4 reads torch_dtype, transformers 5 dtype.
  config["dtype"] = type.theirs;
  config["torch_dtype"] = type.theirs;
  write_file_durably(folder.path() / "config.json", config.dump(2) + "\n");
  for (const auto& [name, text] : texts) write_file_durably(folder.path() / name, text);
  folder.publish();
  return result;
}

}  // namespace meristem
