// PREFIX.json, the manifest beside a token shard: what it holds, and how its texts were made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace meristem {

struct ShardFile {
  std::int64_t bytes = 0;
  std::string xxh3;  // of the whole file, as xxh3_hex
};

// PREFIX.json: what the shard holds, and hashes that `data verify` checks.
struct ShardManifest {
  std::int64_t tokens = 0, documents = 0;
  std::int64_t vocab_size = 0;              // of the tokenizer: every id is below it
  std::string dtype;                        // "uint16" or "int32"
  std::string tokenizer;                    // path as it was given, for people; may be empty
  std::string tokenizer_hash;               // xxh3_hex of tokenizer.json; empty where unknown
  std::optional<std::int64_t> end_of_text;  // the id that closes every document
  ShardFile bin, idx;
  std::optional<ShardFile> mask;               // PREFIX.mask: one byte a token, 1 where it is trained on
  std::int64_t trained_tokens = 0;             // ones in the mask
  std::vector<std::int64_t> begin_of_text;     // ids before every text
  std::string chat_template;                   // that rendered it, as it was given; empty: none
  std::vector<std::int64_t> end_of_turn = {};  // special tokens that end an answer of it
};

// Reads PREFIX.json. Nothing where there is no such file; DamagedError naming the key where it is not a manifest, InputError where it is
// of a later format.
std::optional<ShardManifest> read_shard_manifest(const std::filesystem::path& path);

// PREFIX of PREFIX, PREFIX.bin and PREFIX.idx.
std::string shard_prefix(const std::filesystem::path& path);

}  // namespace meristem
