// Writes a Megatron token pair with its manifest, for tests: PREFIX.bin, PREFIX.idx, PREFIX.json. Runs read what scripts/ has written; this
// is a second hand at the same format. Files get their names when they are whole and durable.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "data/shard.h"

namespace meristem::test {

inline std::string shard_manifest_json(const ShardManifest& manifest) {
  nlohmann::ordered_json json;
  const bool texts = !manifest.begin_of_text.empty() || !manifest.chat_template.empty();
  json["format_version"] = texts ? 3 : manifest.mask ? 2 : 1;
  json["tokens"] = manifest.tokens;
  json["documents"] = manifest.documents;
  json["vocab_size"] = manifest.vocab_size;
  json["dtype"] = manifest.dtype;
  if (!manifest.tokenizer.empty()) json["tokenizer"] = manifest.tokenizer;
  if (!manifest.tokenizer_hash.empty()) json["tokenizer_hash"] = manifest.tokenizer_hash;
  if (manifest.end_of_text) json["end_of_text"] = *manifest.end_of_text;
  if (!manifest.begin_of_text.empty()) json["begin_of_text"] = manifest.begin_of_text;
  if (!manifest.chat_template.empty()) {
    json["chat_template"] = manifest.chat_template;
    json["chat_template_hash"] = xxh3_hex(std::as_bytes(std::span(manifest.chat_template)));
  }
  json["files"]["bin"] = {{"bytes", manifest.bin.bytes}, {"xxh3", manifest.bin.xxh3}};
  json["files"]["idx"] = {{"bytes", manifest.idx.bytes}, {"xxh3", manifest.idx.xxh3}};
  if (manifest.mask) {
    json["trained_tokens"] = manifest.trained_tokens;
    json["files"]["mask"] = {{"bytes", manifest.mask->bytes}, {"xxh3", manifest.mask->xxh3}};
  }
  return json.dump(1) + "\n";
}

struct ShardOptions {
  std::int64_t vocab_size = 0;  // ids are stored as uint16 below 65536 ids, else as int32
  std::string tokenizer_hash;   // xxh3_hex of tokenizer.json; empty: unknown
};

class ShardWriter {
 public:
  // InputError where one of the three files exists or cannot be created.
  ShardWriter(const std::filesystem::path& prefix, ShardOptions options);
  ~ShardWriter();  // removes what was not finished
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // Appends one document, which may be empty. InputError: an id outside the vocabulary, or more than 2^31 - 1 tokens.
  void add_document(std::span<const std::int32_t> tokens);
  void finish();

 private:
  std::filesystem::path final_path(const char* extension) const;
  std::filesystem::path pending_path(const char* extension) const;
  std::string index_bytes() const;
  void flush();

  std::string prefix_;
  ShardOptions options_;
  bool wide_ = false;  // int32
  std::unique_ptr<DurableFile> bin_;
  std::string buffer_;
  std::vector<std::int32_t> lengths_;
  bool finished_ = false;
};

inline constexpr std::array<const char*, 3> kShardExtensions{".bin", ".idx", ".json"};

template <class Int>
void append_integer(std::string& bytes, Int value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline ShardFile shard_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {static_cast<std::int64_t>(file.bytes().size()), xxh3_hex(file.bytes())};
}

inline ShardWriter::ShardWriter(const std::filesystem::path& prefix, ShardOptions options)
    : prefix_(prefix.string()), options_(std::move(options)), wide_(options_.vocab_size >= 65536) {
  if (options_.vocab_size < 1 || options_.vocab_size > std::numeric_limits<std::int32_t>::max()) {
    throw InputError(fmt::format("{}: vocab_size: found {}, allowed: 1 to 2^31 - 1", prefix_, options_.vocab_size));
  }
  for (const char* extension : kShardExtensions) {
    std::error_code ignored;
    if (std::filesystem::exists(final_path(extension), ignored)) throw InputError(final_path(extension).string() + ": exists already");
  }
  bin_ = std::make_unique<DurableFile>(pending_path(".bin"));
}

inline ShardWriter::~ShardWriter() {
  if (finished_) return;
  for (const char* extension : kShardExtensions) {
    std::error_code ignored;
    std::filesystem::remove(pending_path(extension), ignored);
  }
}

inline std::filesystem::path ShardWriter::final_path(const char* extension) const { return prefix_ + extension; }
inline std::filesystem::path ShardWriter::pending_path(const char* extension) const {
  return fmt::format("{}{}.tmp-{}", prefix_, extension, ::getpid());
}

inline void ShardWriter::add_document(std::span<const std::int32_t> tokens) {
  if (tokens.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw InputError(fmt::format("{}: document {} has {} tokens, at most 2^31 - 1 are allowed", prefix_, lengths_.size(), tokens.size()));
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= options_.vocab_size) {
      throw InputError(
          fmt::format("{}: document {}: token id {}, the vocabulary has {}", prefix_, lengths_.size(), token, options_.vocab_size));
    }
  }
  for (const std::int32_t token : tokens) {
    if (wide_) {
      append_integer(buffer_, token);
    } else {
      append_integer(buffer_, static_cast<std::uint16_t>(token));
    }
  }
  lengths_.push_back(static_cast<std::int32_t>(tokens.size()));
  if (buffer_.size() >= (1u << 20)) flush();
}

inline void ShardWriter::flush() {
  bin_->write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

inline std::string ShardWriter::index_bytes() const {
  std::string bytes("MMIDIDX\0\0", 9);
  append_integer(bytes, std::uint64_t{1});
  append_integer(bytes, static_cast<std::uint8_t>(wide_ ? 4 : 8));
  append_integer(bytes, static_cast<std::uint64_t>(lengths_.size()));
  append_integer(bytes, static_cast<std::uint64_t>(lengths_.size() + 1));
  for (const std::int32_t length : lengths_) append_integer(bytes, length);
  std::int64_t pointer = 0;
  for (const std::int32_t length : lengths_) {
    append_integer(bytes, pointer);
    pointer += std::int64_t{length} * (wide_ ? 4 : 2);
  }
  for (std::size_t i = 0; i <= lengths_.size(); ++i) append_integer(bytes, static_cast<std::int64_t>(i));
  return bytes;
}

inline void ShardWriter::finish() {
  flush();
  bin_->close_durably();
  write_file_durably(pending_path(".idx"), index_bytes());
  ShardManifest manifest;
  for (const std::int32_t length : lengths_) manifest.tokens += length;
  manifest.documents = static_cast<std::int64_t>(lengths_.size());
  manifest.vocab_size = options_.vocab_size;
  manifest.dtype = wide_ ? "int32" : "uint16";
  manifest.tokenizer_hash = options_.tokenizer_hash;
  manifest.bin = shard_file(pending_path(".bin"));
  manifest.idx = shard_file(pending_path(".idx"));
  write_file_durably(pending_path(".json"), shard_manifest_json(manifest));
  for (const char* extension : kShardExtensions) {
    if (::rename(pending_path(extension).c_str(), final_path(extension).c_str()) != 0) {
      throw_errno(final_path(extension), "cannot be published");
    }
  }
  finished_ = true;
  const std::filesystem::path folder = std::filesystem::path(prefix_).parent_path();
  fsync_folder(folder.empty() ? "." : folder);
}

}  // namespace meristem::test
