// Which token ids begin and end a text, as the files beside a tokenizer say it, and those files for a folder that lacks them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace meristem {

struct TokenIds {
  std::optional<std::int64_t> bos, pad;
  std::vector<std::int64_t> eos;  // the first is the end of text; further ones end an answer
};

// Of the folder of a tokenizer. A run's text.json says what its training data began and ended with, and an answer in them; to that comes,
// each from the first that names it: generation_config.json, config.json, tokenizer_config.json or
// special_tokens_map.json; the end of text at last from tokenizer.json itself, where it holds one of the usual names. A tokenizer without a
// word on them is one of ours or like ours: its end of text also begins a text, and pads.
// DamagedError: one of the files is no JSON, or a key is mistyped.
TokenIds token_ids_of(const std::filesystem::path& folder);

// Sets bos_token_id, eos_token_id (a list where there are several) and pad_token_id; null where unknown. Those that stand there stay.
void write_token_ids(const TokenIds& ids, nlohmann::ordered_json& config);

// tokenizer_config.json for a tokenizer.json that came without: the tokens of these ids by their names. Null where the ids have no names.
nlohmann::ordered_json tokenizer_config_json(const std::filesystem::path& folder, const TokenIds& ids, std::int64_t positions);

}  // namespace meristem
