// manifest.json: the last file of a checkpoint to be written. A folder is a checkpoint only if it holds one that agrees with it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/hashed_file.h"

namespace meristem {

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
