#include "checkpoint/manifest.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "checkpoint/train_state.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace meristem {

struct HashedFile::Hash {
  XXH3_state_t state;
};

HashedFile::HashedFile(const std::filesystem::path& path) : file_(path), hash_(std::make_unique<Hash>()) {
  XXH3_64bits_reset(&hash_->state);
}

HashedFile::~HashedFile() = default;

void HashedFile::write(const void* data, std::size_t bytes) {
  // Piecewise, so that the kernel copies what the hash has just brought into the cache.
  constexpr std::size_t kPiece = 1 << 20;
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const std::size_t piece = std::min(bytes, kPiece);
    XXH3_64bits_update(&hash_->state, at, piece);
    file_.write(at, piece);
    at += piece;
    bytes -= piece;
    bytes_ += piece;
  }
}

FileDigest HashedFile::close_durably() {
  file_.close_durably();
  return {bytes_, fmt::format("{:016x}", XXH3_64bits_digest(&hash_->state))};
}

namespace {

// A manifest must not be able to name a file outside its folder.
bool plain_file_name(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  };
  return !name.empty() && name.size() <= 200 && name[0] != '.' && std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace

std::string manifest_json(const Manifest& manifest) {
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const auto& [name, digest] : manifest.files) files[name] = {{"bytes", digest.bytes}, {"xxh3", digest.xxh3}};
  nlohmann::ordered_json json;
  json["format_version"] = kCheckpointFormatVersion;
  json["step"] = manifest.step;
  json["files"] = files;
  return json.dump(1) + "\n";
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "manifest.json";
  const std::string origin = path.string();
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) throw DamagedError(origin + ": is missing: not a whole checkpoint");
  const nlohmann::json document = parse_json_strict(read_file(path), origin);
  const JsonCursor json(document, origin);
  read_format_version(json, origin);
  json.allow_only({"format_version", "step", "files"});
  Manifest manifest;
  manifest.step = json.at("step").integer(0);
  for (const auto& [name, entry] : json.at("files").members()) {
    if (!plain_file_name(name)) entry.fail("is not a plain file name");
    entry.allow_only({"bytes", "xxh3"});
    FileDigest digest;
    digest.bytes = static_cast<std::uint64_t>(entry.at("bytes").integer(0));
    digest.xxh3 = entry.at("xxh3").hash();
    manifest.files.emplace(name, digest);
  }
  return manifest;
}

int read_format_version(const JsonCursor& json, const std::string& origin) {
  const std::int64_t version = json.at("format_version").integer(1, std::numeric_limits<int>::max());
  if (version > kCheckpointFormatVersion) {
    throw InputError(fmt::format("{}: format_version: found {}, this program reads up to {}: use a newer meristem", origin, version,
                                 kCheckpointFormatVersion));
  }
  return static_cast<int>(version);
}

}  // namespace meristem
