// Writes a Megatron token pair with its manifest: PREFIX.bin, PREFIX.idx, PREFIX.json. Files get their names when they are whole and
// durable.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"

namespace meristem {

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

}  // namespace meristem
