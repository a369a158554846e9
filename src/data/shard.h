// Token shards: a Megatron pair PREFIX.bin + PREFIX.idx with its optional manifest PREFIX.json and mask PREFIX.mask, or a flat .bin of
// llm.c or of bare ids. Memory-mapped; everything but the token ids is checked when a source is opened, ids when they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/file.h"
#include "data/shard_manifest.h"

namespace meristem {

// How a token id is stored, little-endian.
enum class TokenType : std::uint8_t { kU8, kI8, kI16, kU16, kI32, kU32, kI64 };
std::int64_t token_bytes(TokenType type);
std::string token_type_name(TokenType type);  // "uint16"

// PREFIX.idx, format MMIDIDX version 1, validated in full when it is opened:
//   "MMIDIDX\0\0", u64 version, u8 type code, u64 sequences, u64 document entries,
//   i32 length[sequences], i64 byte pointer into the .bin[sequences], i64 first sequence of each document[documents + 1]
class ShardIndex {
 public:
  // bin_bytes: size of the .bin beside it. Sequences must fill the .bin exactly, in order, and documents must cover the sequences.
  // DamagedError names the file and the byte offset of the field that is wrong.
  ShardIndex(const std::filesystem::path& path, std::int64_t bin_bytes);

  TokenType type() const { return type_; }
  std::int64_t num_documents() const { return documents_; }
  std::int64_t num_tokens() const { return tokens_; }
  // The first token of a document, counted over the whole .bin; document num_documents() is the end.
  std::int64_t document_begin(std::int64_t document) const;

 private:
  MappedFile file_;
  TokenType type_ = TokenType::kU16;
  std::int64_t sequences_ = 0, documents_ = 0, tokens_ = 0;

  template <class Int>
  Int at(std::size_t offset) const;
  std::size_t lengths_at() const;
  std::size_t pointers_at() const;
  std::size_t documents_at() const;
  void check_header();
  void check_sequences(std::int64_t bin_bytes);
  void check_documents() const;
  [[noreturn]] void damaged(std::size_t offset, const std::string& what) const;
};

// A run of tokens that lie in one document.
struct DocumentSlice {
  std::int64_t document = 0;
  std::int64_t begin = 0;  // token inside the document
  std::int64_t count = 0;  // at least 1
};

// One source of tokens: a sequence of documents. Megatron pairs keep theirs; a flat file is one document. A mask says which tokens are
// trained on.
class TokenSource {
 public:
  // PREFIX of a Megatron pair or PREFIX.bin / PREFIX.idx; where there is no .idx, a .bin of llm.c (both magics), or bare ids: of the type
  // that the name ends in (PREFIX.uint32.bin), else uint16.
  // InputError: nothing there, not one token, or bare ids that look like those of a wider type. DamagedError: header, index or manifest
  // wrong, naming the file and offset or key.
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
  // A few words that differ where another source stands at the path: counts, and a hash of the first and the last tokens.
  std::string fingerprint() const;
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
