#include "checkpoint/hashed_file.h"

#include <algorithm>

#include <fmt/format.h>

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

}  // namespace meristem
