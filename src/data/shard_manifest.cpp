#include "data/shard_manifest.h"

#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"

namespace meristem {
namespace {

// 2: with a mask, which a reader of 1 would train past. 3: with what stands before every text, or a chat template.
constexpr std::int64_t kShardManifestVersion = 3;

ShardFile shard_file_of(const JsonCursor& json) {
  json.allow_only({"bytes", "xxh3"});
  return {json.at("bytes").integer(0), json.at("xxh3").hash()};
}

}  // namespace

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
                   "begin_of_text", "chat_template", "chat_template_hash", "end_of_turn", "trained_tokens", "files"});
  ShardManifest manifest;
  manifest.tokens = json.at("tokens").integer(0);
  manifest.documents = json.at("documents").integer(0);
  manifest.vocab_size = json.at("vocab_size").integer(1);
  manifest.dtype = json.at("dtype").text();
  if (json.has("tokenizer")) manifest.tokenizer = json.at("tokenizer").text();
  if (json.has("tokenizer_hash")) manifest.tokenizer_hash = json.at("tokenizer_hash").hash();
  if (json.has("end_of_text")) manifest.end_of_text = json.at("end_of_text").integer(0);
  if (json.has("begin_of_text")) manifest.begin_of_text = json.at("begin_of_text").integers(0);
  if (json.has("chat_template")) {
    manifest.chat_template = json.at("chat_template").text();
    const std::string hash = json.at("chat_template_hash").hash(), found = xxh3_hex(std::as_bytes(std::span(manifest.chat_template)));
    if (hash != found) json.at("chat_template").fail(fmt::format("has xxh3 {}, chat_template_hash says {}", found, hash));
  }
  if (json.has("end_of_turn")) manifest.end_of_turn = json.at("end_of_turn").integers(0);
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

std::string shard_prefix(const std::filesystem::path& path) {
  const std::filesystem::path extension = path.extension();
  return (extension == ".bin" || extension == ".idx" ? std::filesystem::path(path).replace_extension() : path).string();
}

}  // namespace meristem
