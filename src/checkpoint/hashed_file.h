// A durable file whose size and hash are known once it is written, without reading it back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "core/file.h"

namespace meristem {

struct FileDigest {
  std::uint64_t bytes = 0;
  std::string xxh3;  // 64 bit, 16 lower-case hex digits, as xxh3_hex
  bool operator==(const FileDigest&) const = default;
};

class HashedFile {
 public:
  explicit HashedFile(const std::filesystem::path& path);  // creates or truncates
  ~HashedFile();
  void write(const void* data, std::size_t bytes);
  FileDigest close_durably();  // fsync, close

 private:
  struct Hash;
  DurableFile file_;
  std::unique_ptr<Hash> hash_;
  std::uint64_t bytes_ = 0;
};

}  // namespace meristem
