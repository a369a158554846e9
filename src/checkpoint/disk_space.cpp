#include "checkpoint/disk_space.h"

#include <sys/statvfs.h>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"

namespace meristem {

std::uint64_t free_disk_bytes(const std::filesystem::path& path) {
  std::filesystem::path at = std::filesystem::absolute(path);
  struct statvfs info {};
  while (::statvfs(at.c_str(), &info) != 0) {
    if (errno != ENOENT || !at.has_relative_path()) throw_errno(at, "free disk cannot be asked");
    at = at.parent_path();
  }
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

void require_free_disk(const std::filesystem::path& path, std::uint64_t needed_bytes) {
  const std::uint64_t free_bytes = free_disk_bytes(path);
  if (free_bytes >= needed_bytes) return;
  throw SystemError(fmt::format("{}: not enough free disk: {} bytes needed ({}), {} bytes free ({})", path.string(), needed_bytes,
                                bytes_text(static_cast<double>(needed_bytes)), free_bytes, bytes_text(static_cast<double>(free_bytes))));
}

}  // namespace meristem
