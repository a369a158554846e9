// manifest.json: the last file of a checkpoint to be written. A folder is a checkpoint only if it holds one that agrees with it, in the
// size and hash of every file; so files are written through HashedFile, which knows both without reading them back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "core/file.h"

namespace meristem {

struct FileDigest {
  std::uint64_t bytes = 0;
  std::string xxh3;  // 64 bit, 16 lower-case hex digits, as xxh3_hex
  bool operator==(const FileDigest&) const = default;
};

// A durable file whose size and hash are known once it is written.
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

class JsonCursor;

struct Manifest {
  std::int64_t step = 0;
  std::map<std::string, FileDigest> files;  // by file name inside the folder
};

std::string manifest_json(const Manifest& manifest);

// Reads FOLDER/manifest.json. DamagedError where it is missing or wrong; InputError for a format version from the future.
Manifest read_manifest(const std::filesystem::path& folder);

// The document's format_version: InputError, naming both versions, where this program is too old for it.
int read_format_version(const JsonCursor& json, const std::string& origin);

}  // namespace meristem
