#include "interop/hf_folder.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/publish.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "interop/element_types.h"
#include "interop/families.h"
#include "interop/token_ids.h"

namespace meristem {
namespace {

constexpr std::array<const char*, 10> kCompanions{
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "chat_template.json", "generation_config.json"};
constexpr std::uint64_t kLargestCompanion = 1ull << 30;

}  // namespace

std::vector<std::string> copy_companions(const std::filesystem::path& from, const std::filesystem::path& to, bool config) {
  std::vector<std::string> names(kCompanions.begin(), kCompanions.end());
  if (config) names.emplace_back("config.json");
  std::erase_if(names, [&](const std::string& name) {
    std::error_code ignored;
    return !std::filesystem::is_regular_file(from / name, ignored);
  });
  for (const std::string& name : names) replace_file_durably(to / name, read_file(from / name, kLargestCompanion));
  return names;
}

namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Shard file -> names of its tensors.
std::map<std::string, std::set<std::string>> read_weight_map(const std::filesystem::path& index) {
  const nlohmann::json document = parse_json_strict(read_file(index), index.string());
  const JsonCursor map = JsonCursor(document, index.string()).at("weight_map");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, file] : map.members()) {
    const std::string shard = file.text();
    if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos)
      file.fail("expected the name of a file beside this one");
    shards[shard].insert(name);
  }
  if (shards.empty()) map.fail("names no tensor");
  return shards;
}

}  // namespace

TensorFolder TensorFolder::open(const std::filesystem::path& folder) {
  TensorFolder out;
  out.folder_ = folder;
  std::error_code ignored;
  if (std::filesystem::exists(folder / kIndex, ignored)) {
    for (const auto& [shard, names] : read_weight_map(folder / kIndex)) out.add(folder / shard, &names);
  } else if (std::filesystem::exists(folder / kSingle, ignored)) {
    out.add(folder / kSingle, nullptr);
  } else {
    throw InputError(fmt::format("{}: has neither {} nor {} (weights in .bin files are not read: save the model anew with transformers)",
                                 folder.string(), kSingle, kIndex));
  }
  return out;
}

void TensorFolder::add(const std::filesystem::path& path, const std::set<std::string>* expected) {
  files_.push_back(SafetensorsFile::open(path));
  for (const TensorView& tensor : files_.back().tensors()) {
    if (expected != nullptr && !expected->contains(tensor.name)) {
      throw DamagedError(fmt::format("{}: tensor {} is not this file's in {}", path.string(), printable(tensor.name), kIndex));
    }
    places_.emplace(tensor.name, files_.size() - 1);
  }
  if (expected == nullptr) return;
  for (const std::string& name : *expected) {
    if (!files_.back().has(name))
      throw DamagedError(fmt::format("{}: tensor {} is missing, which {} places here", path.string(), printable(name), kIndex));
  }
}

const TensorView& TensorFolder::at(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw InputError(fmt::format("{}: tensor {} is missing", folder_.string(), name));
  return files_[found->second].at(name);
}

std::string TensorFolder::file_of(const std::string& name) const { return files_[places_.at(name)].path().string(); }

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& place : places_) names.push_back(place.first);
  return names;
}

namespace {

constexpr std::array<WeightType, 3> kTypes{
    {{"fp32", "float32", Dtype::kF32}, {"bf16", "bfloat16", Dtype::kBF16}, {"fp16", "float16", Dtype::kF16}}};

// The rows of a part, where our file has them.
TensorView part_view(const SafetensorsFile& weights, const WeightPart& part) {
  const TensorView& tensor = weights.at(part.ours);
  const std::int64_t columns = part.row_elements();
  if (tensor.dtype != Dtype::kF32 || tensor.elements() < part.first_row * columns + part.elements()) {
    throw DamagedError(fmt::format("{}: tensor {}: {} of shape [{}] does not hold {}", weights.path().string(), tensor.name,
                                   dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "), part.theirs));
  }
  const auto* rows = static_cast<const std::byte*>(tensor.data) + part.first_row * columns * static_cast<std::int64_t>(sizeof(float));
  return {part.theirs, Dtype::kF32, part.shape, rows};
}

// Parts by file, each file at most about `bytes` long.
std::vector<std::vector<const WeightPart*>> shards_of(const std::vector<WeightPart>& parts, std::size_t element_bytes,
                                                      std::uint64_t bytes) {
  std::vector<std::vector<const WeightPart*>> shards(1);
  std::uint64_t held = 0;
  for (const WeightPart& part : parts) {
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

// One file at a time is held in the smaller type; fp32 is written from the mapped checkpoint as it is, but for parts with an offset.
std::int64_t write_shard(const SafetensorsFile& weights, const std::vector<const WeightPart*>& shard, Dtype dtype,
                         const std::filesystem::path& path) {
  std::vector<TensorView> views;
  std::vector<std::vector<std::byte>> narrowed;
  std::vector<float> aligned;
  std::int64_t overflows = 0;
  for (const WeightPart* part : shard) {
    TensorView view = part_view(weights, *part);
    if (dtype != Dtype::kF32 || part->offset != 0) {
      aligned.resize(static_cast<std::size_t>(part->elements()));
      widen(view, path.string(), aligned);
      if (part->offset != 0)
        std::for_each(aligned.begin(), aligned.end(), [&](float& value) { value -= static_cast<float>(part->offset); });
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

// Into model.safetensors in `folder`, or shards of about `shard_bytes` and their index; counts files and overflows.
void write_weights(const SafetensorsFile& weights, const std::vector<WeightPart>& parts, Dtype dtype, std::uint64_t shard_bytes,
                   const std::filesystem::path& folder, HfExported& done) {
  const auto shards = shards_of(parts, dtype_bytes(dtype), shard_bytes);
  done.files = shards.size();
  if (shards.size() == 1) {
    done.overflows = write_shard(weights, shards[0], dtype, folder / kSingle);
    return;
  }
  std::int64_t bytes = 0;
  nlohmann::json map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    done.overflows += write_shard(weights, shards[i], dtype, folder / name);
    for (const WeightPart* part : shards[i]) {
      map[part->theirs] = name;
      bytes += part->elements() * static_cast<std::int64_t>(dtype_bytes(dtype));
    }
  }
  const nlohmann::json index{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}};
  write_file_durably(folder / kIndex, index.dump(2) + "\n");
}

}  // namespace

std::int64_t WeightPart::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

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

nlohmann::ordered_json base_config(const std::filesystem::path& companions) {
  std::error_code ignored;
  const std::filesystem::path path = companions / "config.json";
  if (companions.empty() || !std::filesystem::exists(path, ignored)) return nlohmann::ordered_json::object();
  const std::string text = read_file(path);
  const nlohmann::json strict = parse_json_strict(text, path.string());
  if (!strict.is_object() || !strict.contains("model_type") || !strict.at("model_type").is_string() ||
      family_of(strict.at("model_type").get<std::string>()) == nullptr) {
    return nlohmann::ordered_json::object();
  }
  return nlohmann::ordered_json::parse(text);  // in the order of the file
}

std::int64_t export_positions(std::int64_t sequence_length, const nlohmann::ordered_json& base) {
  const bool known = base.contains("max_position_embeddings") && base.at("max_position_embeddings").is_number_integer();
  return std::max(sequence_length, known ? base.at("max_position_embeddings").get<std::int64_t>() : 0);
}

namespace {

// What travels with the weights, and the files that transformers needs beside it: which tokens begin and end a text.
void add_companions(const HfExport& options, nlohmann::ordered_json& config, const std::filesystem::path& to, HfExported& done) {
  TokenIds ids;
  if (!options.companions.empty()) {
    done.companions = copy_companions(options.companions, to, /*config=*/false);
    ids = token_ids_of(options.companions);
  }
  // transformers' own defaults would name tokens that the tokenizer may use otherwise: null where they are not known.
  write_token_ids(ids, config);
  const auto add = [&](const char* name, const nlohmann::ordered_json& json) {
    std::error_code ignored;
    if (json.is_null() || std::filesystem::exists(to / name, ignored)) return;
    write_file_durably(to / name, json.dump(2) + "\n");
  };
  std::error_code ignored;
  if (std::filesystem::exists(to / "tokenizer.json", ignored))
    add("tokenizer_config.json", tokenizer_config_json(options.companions, ids, config.at("max_position_embeddings").get<std::int64_t>()));
  if (ids.eos.empty()) return;
  nlohmann::ordered_json generation = nlohmann::ordered_json::object();
  write_token_ids(ids, generation);
  add("generation_config.json", generation);
}

}  // namespace

HfExported write_hf_folder(const SafetensorsFile& weights, const std::vector<WeightPart>& parts, nlohmann::ordered_json config,
                           const WeightType& type, const HfExport& options, const std::vector<std::pair<std::string, std::string>>& texts,
                           const std::filesystem::path& out) {
  std::error_code ignored;
  if (std::filesystem::exists(out, ignored)) throw InputError(fmt::format("{}: exists; choose another --out", out.string()));
  PendingFolder folder(out);
  HfExported result;
  result.dtype = type.ours;
  write_weights(weights, parts, type.dtype, options.shard_bytes, folder.path(), result);
  add_companions(options, config, folder.path(), result);
  // Both spellings: transformers 4 reads torch_dtype, transformers 5 dtype.
  config["dtype"] = type.theirs;
  config["torch_dtype"] = type.theirs;
  write_file_durably(folder.path() / "config.json", config.dump(2) + "\n");
  for (const auto& [name, text] : texts) write_file_durably(folder.path() / name, text);
  folder.publish();
  return result;
}

namespace {

nlohmann::ordered_json feed_forward_json(const FeedForwardConfig& ff) {
  if (ff.kind != FeedForwardKind::kExperts) return {{"kind", word_of(ff.kind)}, {"inner", ff.inner}};
  return {{"kind", word_of(ff.kind)}, {"inner", ff.inner},   {"count", ff.count},
          {"active", ff.active},      {"shared", ff.shared}, {"router_dim", ff.router_dim}};
}

nlohmann::ordered_json depth_attention_json(const std::optional<DepthAttentionConfig>& depth) {
  if (!depth) return nullptr;
  if (depth->kind != DepthAttentionKind::kSeparate) return {{"kind", word_of(depth->kind)}};
  return {{"kind", word_of(depth->kind)},
          {"heads", depth->heads},
          {"keys", word_of(depth->keys.value())},
          {"position", word_of(depth->position.value())}};
}

nlohmann::ordered_json mixers_json(const std::vector<ModelPart>& parts) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ModelPart& part : parts) {
    if (part.python_class.empty())
      throw InputError(fmt::format("model: its mixer {} has no code for transformers; allowed: mixers that bring some", part.name));
    list.push_back({part.name, part.python_class});
  }
  return list;
}

// modeling_meristem.py and what the parts add to it.
std::string code_of(const std::vector<ModelPart>& parts) {
  std::string code = kModelingCode;
  for (const ModelPart& part : parts) {
    if (!part.source.empty() && code.find(part.source) == std::string::npos) code += "\n\n" + part.source;
  }
  return code;
}

nlohmann::ordered_json config_json(const ModelConfig& model, const std::vector<ModelPart>& parts, const std::string& plan,
                                   std::int64_t positions, const nlohmann::ordered_json& base) {
  nlohmann::ordered_json json = {{"architectures", {"MeristemForCausalLM"}}, {"model_type", "meristem"}};
  json["auto_map"] = {{"AutoConfig", "modeling_meristem.MeristemConfig"},
                      {"AutoModelForCausalLM", "modeling_meristem.MeristemForCausalLM"}};
  json["depth_plan"] = plan;
  json["repeats"] = nullptr;
  json["num_blocks"] = model.blocks;
  json["injection"] = word_of(model.loop.injection);
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.width;
  json["num_attention_heads"] = model.attention.heads;
  json["num_key_value_heads"] = model.attention.kv_heads;
  json["head_dim"] = model.attention.head_dim;
  json["rope_base"] = model.attention.rope_theta;
  json["rope_scaling_by"] = rope_scaling_json(model.attention);  // not rope_scaling, which transformers would read its own way
  json["no_rope_every"] = model.attention.no_rope_every;
  json["window"] = model.attention.window;
  json["full_every"] = model.attention.full_every;
  json["score_cap"] = model.attention.score_cap;
  json["logit_cap"] = model.logit_cap;
  json["embedding_scale"] = model.embedding_scale;
  json["qk_norm"] = model.attention.qk_norm;
  json["qk_norm_over"] = word_of(model.attention.qk_norm_over);
  json["qkv_bias"] = model.attention.qkv_bias;
  json["norm"] = word_of(model.norm);
  json["rms_norm_eps"] = model.norm_eps;
  json["feed_forward"] = feed_forward_json(model.feed_forward);
  json["depth_attention"] = depth_attention_json(model.depth_attention);
  json["mixers"] = mixers_json(parts);
  for (const auto& option : model.options) json["options"][option.first] = model.option(option.first, 0);
  json["tie_word_embeddings"] = model.tie_embeddings;
  json["max_position_embeddings"] = positions;
  for (const char* token : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (base.contains(token)) json[token] = base.at(token);
  }
  return json;
}

}  // namespace

HfExported export_with_code(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<ModelPart>& parts,
                            const std::string& plan, std::int64_t sequence_length, const HfExport& options,
                            const std::filesystem::path& out) {
  std::vector<WeightPart> tensors;
  for (const TensorView& tensor : weights.tensors()) tensors.push_back({tensor.name, tensor.name, tensor.shape});
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, tensors, config_json(model, parts, plan, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {{"modeling_meristem.py", code_of(parts)}}, out);
}

}  // namespace meristem
