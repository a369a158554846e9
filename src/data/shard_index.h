// The index of a Megatron token pair (PREFIX.idx, format MMIDIDX version 1), memory-mapped and validated in full when it is opened:
//   "MMIDIDX\0\0", u64 version, u8 type code, u64 sequences, u64 document entries,
//   i32 length[sequences], i64 byte pointer into the .bin[sequences], i64 first sequence of each document[documents + 1]
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "core/file.h"

namespace meristem {

// How a token id is stored, little-endian.
enum class TokenType : std::uint8_t { kU8, kI8, kI16, kU16, kI32, kU32, kI64 };
std::int64_t token_bytes(TokenType type);
std::string token_type_name(TokenType type);  // "uint16"

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

}  // namespace meristem
