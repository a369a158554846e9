#include "data/shard_writer.h"

#include <array>
#include <cstdio>
#include <limits>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>

#include "core/errors.h"
#include "data/shard.h"

namespace meristem {
namespace {

constexpr std::array<const char*, 3> kShardExtensions{".bin", ".idx", ".json"};

template <class Int>
void append_integer(std::string& bytes, Int value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

ShardFile shard_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {static_cast<std::int64_t>(file.bytes().size()), xxh3_hex(file.bytes())};
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& prefix, ShardOptions options)
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

ShardWriter::~ShardWriter() {
  if (finished_) return;
  for (const char* extension : kShardExtensions) {
    std::error_code ignored;
    std::filesystem::remove(pending_path(extension), ignored);
  }
}

std::filesystem::path ShardWriter::final_path(const char* extension) const { return prefix_ + extension; }
std::filesystem::path ShardWriter::pending_path(const char* extension) const {
  return fmt::format("{}{}.tmp-{}", prefix_, extension, ::getpid());
}

void ShardWriter::add_document(std::span<const std::int32_t> tokens) {
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

void ShardWriter::flush() {
  bin_->write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

std::string ShardWriter::index_bytes() const {
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

void ShardWriter::finish() {
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

}  // namespace meristem
