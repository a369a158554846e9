// One source of tokens: a memory-mapped sequence of documents. Reads Megatron pairs (documents kept), and as one document each llm.c
// files and bare uint16 files. A mask beside a pair (PREFIX.mask) says which tokens are trained on. Everything but the token ids is checked
// when it is opened; ids are checked when they are read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "core/file.h"
#include "data/shard_index.h"
#include "data/shard_manifest.h"

namespace meristem {

class TokenSource {
 public:
  // PREFIX of a Megatron pair or PREFIX.bin / PREFIX.idx; where there is no .idx, a .bin of llm.c (both magics) or bare uint16.
  // InputError: nothing there, or not one token. DamagedError: header, index or manifest wrong, naming the file and offset or key.
  static TokenSource open(const std::filesystem::path& path);

  std::int64_t num_documents() const { return index_ ? index_->num_documents() : 1; }
  std::int64_t num_tokens() const { return tokens_; }
  std::int64_t document_length(std::int64_t document) const;

  // Copies tokens [begin, begin + count) of a document to `out`. An id that is negative or >= vocab_size is a DamagedError that names the
  // file and its byte offset; a range outside the document is std::out_of_range.
  void read(std::int64_t document, std::int64_t begin, std::int64_t count, std::int32_t* out, std::int64_t vocab_size) const;

  bool has_mask() const { return mask_.has_value(); }
  // Which of the tokens [begin, begin + count) of a document are trained on: 1 or 0 each; all 1 where there is no mask. DamagedError for
  // any other byte, naming the file and its offset; ranges as read().
  void read_mask(std::int64_t document, std::int64_t begin, std::int64_t count, std::uint8_t* out) const;

  const std::filesystem::path& bin_path() const { return bin_.path(); }
  TokenType token_type() const { return type_; }
  const std::optional<ShardManifest>& manifest() const { return manifest_; }

 private:
  explicit TokenSource(MappedFile bin) : bin_(std::move(bin)) {}

  MappedFile bin_;
  std::optional<MappedFile> mask_;
  std::optional<ShardIndex> index_;
  std::optional<ShardManifest> manifest_;
  TokenType type_ = TokenType::kU16;
  std::int64_t header_ = 0;  // bytes of the .bin before the first token
  std::int64_t tokens_ = 0;

  std::int64_t document_begin(std::int64_t document) const;
  void open_index(const std::filesystem::path& path);
  void open_flat();
  void open_mask(const std::filesystem::path& path);
  void check_manifest(const std::filesystem::path& path, std::int64_t index_bytes) const;
  std::int64_t first_token(std::int64_t document, std::int64_t begin, std::int64_t count) const;
  [[noreturn]] void outside_vocabulary(std::int64_t token, const std::int32_t* read, std::int64_t count, std::int64_t vocab_size) const;
};

}  // namespace meristem
