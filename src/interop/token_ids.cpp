#include "interop/token_ids.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

// What texts end with, in the order in which scripts/python/text/tokenizer.py looks for it.
constexpr std::array kEndOfText{"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};
constexpr std::uint64_t kLargest = 256ull << 20;

// null where there is no such file. Not strict: transformers writes a model_max_length of 1e30 as a whole number.
nlohmann::json json_of(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return nullptr;
  nlohmann::json document = nlohmann::json::parse(read_file(path, kLargest), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) throw DamagedError(fmt::format("{}: bad JSON", path.string()));
  return document;
}

// Names and ids of tokenizer.json.
class Vocabulary {
 public:
  explicit Vocabulary(const fs::path& folder) : document_(json_of(folder / "tokenizer.json")) {}

  std::optional<std::int64_t> id_of(const std::string& name) const {
    for (const auto& token : added()) {
      if (token.is_object() && token.value("content", nlohmann::json()) == name) return id_in(token, "id");
    }
    const nlohmann::json* words = vocabulary();
    return words != nullptr && words->contains(name) ? id_in(*words, name) : std::nullopt;
  }

  std::optional<std::string> name_of(std::int64_t id) const {
    for (const auto& token : added()) {
      if (token.is_object() && token.value("id", nlohmann::json()) == id && token.value("content", nlohmann::json()).is_string())
        return token.at("content").get<std::string>();
    }
    const nlohmann::json* words = vocabulary();
    if (words == nullptr) return std::nullopt;
    for (const auto& [name, found] : words->items()) {
      if (found == id) return name;
    }
    return std::nullopt;
  }

 private:
  nlohmann::json document_;

  static std::optional<std::int64_t> id_in(const nlohmann::json& object, const std::string& key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_integer() ? std::optional(found->get<std::int64_t>()) : std::nullopt;
  }
  nlohmann::json added() const {
    return document_.is_object() ? document_.value("added_tokens", nlohmann::json::array()) : nlohmann::json::array();
  }
  // Of kinds whose vocabulary is an object of names and ids: BPE, WordPiece, WordLevel.
  const nlohmann::json* vocabulary() const {
    if (!document_.is_object() || !document_.contains("model") || !document_.at("model").is_object()) return nullptr;
    const auto found = document_.at("model").find("vocab");
    return found != document_.at("model").end() && found->is_object() ? &*found : nullptr;
  }
};

// An id or a list of ids under `key`.
std::vector<std::int64_t> ids_under(const nlohmann::json& document, const fs::path& path, const std::string& key) {
  if (!document.is_object() || !document.contains(key) || document.at(key).is_null()) return {};
  const JsonCursor value = JsonCursor(document, path.string()).at(key);
  if (document.at(key).is_array()) return value.integers(0);
  return {value.integer(0)};
}

// The id of the token that `key` names, as a text or an object with its content.
std::optional<std::int64_t> named_under(const nlohmann::json& document, const std::string& key, const Vocabulary& vocabulary) {
  if (!document.is_object() || !document.contains(key)) return std::nullopt;
  nlohmann::json name = document.at(key);
  if (name.is_object()) name = name.value("content", nlohmann::json());
  return name.is_string() ? vocabulary.id_of(name.get<std::string>()) : std::nullopt;
}

}  // namespace

TokenIds token_ids_of(const fs::path& folder) {
  TokenIds ids;
  const nlohmann::json made = json_of(folder / "text.json");
  std::vector<std::int64_t> trained = ids_under(made, folder / "text.json", "end_of_text");
  for (const std::int64_t id : ids_under(made, folder / "text.json", "end_of_turn")) trained.push_back(id);
  for (const char* file : {"generation_config.json", "config.json"}) {
    const nlohmann::json document = json_of(folder / file);
    if (ids.eos.empty()) ids.eos = ids_under(document, folder / file, "eos_token_id");
    for (const auto& [key, id] : {std::pair{"bos_token_id", &ids.bos}, {"pad_token_id", &ids.pad}}) {
      const std::vector<std::int64_t> found = ids_under(document, folder / file, key);
      if (!*id && found.size() == 1) *id = found[0];
    }
  }
  const Vocabulary vocabulary(folder);
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const nlohmann::json document = json_of(folder / file);
    if (const auto eos = named_under(document, "eos_token", vocabulary); eos && ids.eos.empty()) ids.eos = {*eos};
    if (!ids.bos) ids.bos = named_under(document, "bos_token", vocabulary);
    if (!ids.pad) ids.pad = named_under(document, "pad_token", vocabulary);
  }
  const bool named = !ids.eos.empty();
  for (const std::int64_t id : ids.eos) {
    if (std::find(trained.begin(), trained.end(), id) == trained.end()) trained.push_back(id);
  }
  ids.eos = trained;
  if (const auto begin = ids_under(made, folder / "text.json", "begin_of_text"); !ids.bos && begin.size() == 1) ids.bos = begin[0];
  if (!ids.eos.empty() && !named) {
    if (!ids.bos) ids.bos = ids.eos[0];
    if (!ids.pad) ids.pad = ids.eos[0];
  }
  for (const char* name : kEndOfText) {
    const auto eos = ids.eos.empty() ? vocabulary.id_of(name) : std::nullopt;
    if (!eos) continue;
    ids.eos = {*eos};
    if (!ids.bos) ids.bos = eos;
    if (!ids.pad) ids.pad = eos;
  }
  return ids;
}

void write_token_ids(const TokenIds& ids, nlohmann::ordered_json& config) {
  const auto set = [&](const char* key, const nlohmann::ordered_json& value) {
    if (!config.contains(key) || config.at(key).is_null()) config[key] = value;
  };
  set("bos_token_id", ids.bos ? nlohmann::ordered_json(*ids.bos) : nullptr);
  set("eos_token_id", ids.eos.empty()       ? nlohmann::ordered_json(nullptr)
                      : ids.eos.size() == 1 ? nlohmann::ordered_json(ids.eos[0])
                                            : nlohmann::ordered_json(ids.eos));
  set("pad_token_id", ids.pad ? nlohmann::ordered_json(*ids.pad) : nullptr);
}

nlohmann::ordered_json tokenizer_config_json(const fs::path& folder, const TokenIds& ids, std::int64_t positions) {
  const Vocabulary vocabulary(folder);
  nlohmann::ordered_json json = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  const auto name = [&](const char* key, std::optional<std::int64_t> id) {
    if (const auto found = id ? vocabulary.name_of(*id) : std::nullopt) json[key] = *found;
  };
  name("bos_token", ids.bos);
  name("eos_token", ids.eos.empty() ? std::nullopt : std::optional(ids.eos[0]));
  name("pad_token", ids.pad);
  if (json.size() == 1) return nullptr;
  json["model_max_length"] = positions;
  json["clean_up_tokenization_spaces"] = false;
  return json;
}

}  // namespace meristem
