// Free disk, asked before a write rather than after.
#pragma once

#include <cstdint>
#include <filesystem>

namespace meristem {

// Bytes that this user may still write where `path` is or would be (the nearest existing parent decides).
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

// SystemError that names `path`, the bytes needed and the bytes free, where there are fewer.
void require_free_disk(const std::filesystem::path& path, std::uint64_t needed_bytes);

}  // namespace meristem
