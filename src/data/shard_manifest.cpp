#include "data/shard_manifest.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"

namespace meristem {
namespace {

constexpr std::int64_t kShardManifestVersion = 2;  // 2: with a mask, which a reader of 1 would train past

std::string hash_of(const JsonCursor& json) {
  const std::string text = json.text();
  const bool hex = std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (text.size() != 16 || !hex) json.fail("expected 16 hex digits");
  return text;
}

ShardFile shard_file_of(const JsonCursor& json) {
  json.allow_only({"bytes", "xxh3"});
  return {json.at("bytes").integer(0), hash_of(json.at("xxh3"))};
}

}  // namespace

std::string shard_manifest_json(const ShardManifest& manifest) {
  nlohmann::ordered_json json;
  json["format_version"] = manifest.mask ? kShardManifestVersion : 1;
  json["tokens"] = manifest.tokens;
  json["documents"] = manifest.documents;
  json["vocab_size"] = manifest.vocab_size;
  json["dtype"] = manifest.dtype;
  if (!manifest.tokenizer.empty()) json["tokenizer"] = manifest.tokenizer;
  if (!manifest.tokenizer_hash.empty()) json["tokenizer_hash"] = manifest.tokenizer_hash;
  if (manifest.end_of_text) json["end_of_text"] = *manifest.end_of_text;
  json["files"]["bin"] = {{"bytes", manifest.bin.bytes}, {"xxh3", manifest.bin.xxh3}};
  json["files"]["idx"] = {{"bytes", manifest.idx.bytes}, {"xxh3", manifest.idx.xxh3}};
  if (manifest.mask) {
    json["trained_tokens"] = manifest.trained_tokens;
    json["files"]["mask"] = {{"bytes", manifest.mask->bytes}, {"xxh3", manifest.mask->xxh3}};
  }
  return json.dump(1) + "\n";
}

std::optional<ShardManifest> read_shard_manifest(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const nlohmann::json document = parse_json_strict(read_file(path), path.string());
  const JsonCursor json(document, path.string());
  if (const std::int64_t version = json.at("format_version").integer(1); version > kShardManifestVersion) {
    throw InputError(
        fmt::format("{}: format_version: found {}, this program reads up to {}", path.string(), version, kShardManifestVersion));
  }
  json.allow_only({"format_version", "tokens", "documents", "vocab_size", "dtype", "tokenizer", "tokenizer_hash", "end_of_text",
                   "trained_tokens", "files"});
  ShardManifest manifest;
  manifest.tokens = json.at("tokens").integer(0);
  manifest.documents = json.at("documents").integer(0);
  manifest.vocab_size = json.at("vocab_size").integer(1);
  manifest.dtype = json.at("dtype").text();
  if (json.has("tokenizer")) manifest.tokenizer = json.at("tokenizer").text();
  if (json.has("tokenizer_hash")) manifest.tokenizer_hash = hash_of(json.at("tokenizer_hash"));
  if (json.has("end_of_text")) manifest.end_of_text = json.at("end_of_text").integer(0);
  const JsonCursor files = json.at("files");
  files.allow_only({"bin", "idx", "mask"});
  manifest.bin = shard_file_of(files.at("bin"));
  manifest.idx = shard_file_of(files.at("idx"));
  if (files.has("mask")) {
    manifest.mask = shard_file_of(files.at("mask"));
    manifest.trained_tokens = json.at("trained_tokens").integer(0, manifest.tokens);
  } else if (json.has("trained_tokens")) {
    json.at("trained_tokens").fail("there is no mask among the files");
  }
  return manifest;
}

}  // namespace meristem
