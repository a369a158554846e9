#include "checkpoint/publish.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

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

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPending = ".tmp-", kTrash = ".trash-";

void make_folders_durably(const fs::path& folder) {
  if (is_folder(folder)) return;
  if (folder.has_relative_path()) make_folders_durably(folder.parent_path());
  if (::mkdir(folder.c_str(), 0777) != 0 && (errno != EEXIST || !is_folder(folder))) throw_errno(folder, "cannot be created");
  fsync_folder(folder.parent_path());
}

// The locked descriptor; -1 with errno where someone else holds it or the file system has no locks.
int lock_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -1;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

// Of a pending folder's name; 0 where it has none.
pid_t writer_of(const std::string& name) {
  const std::size_t at = name.rfind(kPending);
  int pid = 0;
  if (at != std::string::npos) std::from_chars(name.data() + at + kPending.size(), name.data() + name.size(), pid);
  return pid;
}

bool writer_is_dead(const fs::path& folder) {
  const int fd = lock_folder(folder);
  if (fd >= 0) {
    ::close(fd);
    return true;
  }
  if (errno == EWOULDBLOCK) return false;
  // A file system without locks: judge by the process id alone, and keep the folder in doubt.
  const pid_t pid = writer_of(folder.filename().string());
  return pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
}

}  // namespace

PendingFolder::PendingFolder(const fs::path& final_path) : final_path_(fs::absolute(final_path)) {
  make_folders_durably(final_path_.parent_path());
  for (int number = 0;; ++number) {
    path_ = fmt::format("{}{}{}-{}", final_path_.string(), kPending, ::getpid(), number);
    if (::mkdir(path_.c_str(), 0777) == 0) break;
    if (errno != EEXIST) throw_errno(path_, "cannot be created");
  }
  lock_fd_ = lock_folder(path_);
}

PendingFolder::~PendingFolder() {
  if (!published_) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

void PendingFolder::publish() {
  fsync_folder(path_);
  // A folder cannot be renamed onto one with something in it, whoever puts it there, and whenever: this is the only check that counts.
  if (::rename(path_.c_str(), final_path_.c_str()) != 0) {
    if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) {
      throw InputError(fmt::format("{}: exists: another process was first; nothing of it is overwritten", final_path_.string()));
    }
    throw_errno(final_path_, "cannot be published");
  }
  published();
}

void PendingFolder::replace() {
  fsync_folder(path_);
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) == 0) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);  // what stood there
  } else {
    // A file system that cannot exchange names: for a moment there is neither.
    remove_published(final_path_);
    if (::rename(path_.c_str(), final_path_.c_str()) != 0) throw_errno(final_path_, "cannot be published");
  }
  published();
}

void PendingFolder::published() {
  published_ = true;
  path_ = final_path_;
  fsync_folder(final_path_.parent_path());
}

std::unique_ptr<PendingFolder> make_pending_folder(const fs::path& final_path) { return std::make_unique<PendingFolder>(final_path); }

void remove_dead_leftovers(const fs::path& folder) {
  for (const std::string& name : folder_entries(folder)) {
    const fs::path path = folder / name;
    const bool pending = name.find(kPending) != std::string::npos && writer_of(name) > 0 && is_folder(path);
    // What cannot be removed now is tried again next time: it must not stop a run.
    std::error_code ignored;
    if (name.starts_with(kTrash) || (pending && writer_is_dead(path))) fs::remove_all(path, ignored);
  }
}

fs::path set_aside(const fs::path& folder, std::string_view why) {
  const fs::path absolute = fs::absolute(folder);
  for (int number = 1;; ++number) {
    const fs::path aside = fmt::format("{}.{}-{}", absolute.string(), why, number);
    std::error_code ignored;
    if (fs::exists(fs::symlink_status(aside, ignored))) continue;
    if (::rename(absolute.c_str(), aside.c_str()) != 0) throw_errno(absolute, "cannot be set aside");
    fsync_folder(aside.parent_path());
    return aside;
  }
}

void remove_published(const fs::path& folder) {
  const fs::path absolute = fs::absolute(folder);
  const fs::path trash = absolute.parent_path() / fmt::format("{}{}-{}", kTrash, absolute.filename().string(), ::getpid());
  std::error_code ignored;
  fs::remove_all(trash, ignored);
  if (::rename(absolute.c_str(), trash.c_str()) != 0) throw_errno(absolute, "cannot be removed");
  fs::remove_all(trash, ignored);
}

}  // namespace meristem
