// PREFIX.json, the optional manifest beside a token pair: what the shard holds, and hashes that `data verify` checks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace meristem {

struct ShardFile {
  std::int64_t bytes = 0;
  std::string xxh3;  // of the whole file, as xxh3_hex
};

struct ShardManifest {
  std::int64_t tokens = 0, documents = 0;
  std::int64_t vocab_size = 0;              // of the tokenizer: every id is below it
  std::string dtype;                        // "uint16" or "int32"
  std::string tokenizer;                    // path as it was given, for people; may be empty
  std::string tokenizer_hash;               // xxh3_hex of tokenizer.json; empty where unknown
  std::optional<std::int64_t> end_of_text;  // the id that closes every document
  ShardFile bin, idx;
  std::optional<ShardFile> mask;    // PREFIX.mask: one byte a token, 1 where it is trained on
  std::int64_t trained_tokens = 0;  // ones in the mask
};

std::string shard_manifest_json(const ShardManifest& manifest);

// Reads PREFIX.json. Nothing where there is no such file; DamagedError naming the key where it is not a manifest, InputError where it is
// of a later format.
std::optional<ShardManifest> read_shard_manifest(const std::filesystem::path& path);

}  // namespace meristem
