#include "core/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "core/errors.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace meristem {

void throw_errno(const std::filesystem::path& path, const char* what) {
  const int error = errno;
  const std::string message = fmt::format("{}: {}: {}", path.string(), what, std::strerror(error));
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case ENAMETOOLONG:
    case ELOOP: throw InputError(message);
    default: throw SystemError(message);
  }
}

namespace {

int open_regular(const std::filesystem::path& path, std::uint64_t& size) {
  // O_NONBLOCK: opening a named pipe must not hang before we can refuse it.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw_errno(path, "cannot be opened");
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw InputError(fmt::format("{}: is not a regular file", path.string()));
  }
  size = static_cast<std::uint64_t>(info.st_size);
  return fd;
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  std::uint64_t size = 0;
  const int fd = open_regular(path, size);
  if (size > max_bytes) {
    ::close(fd);
    throw InputError(fmt::format("{}: {} bytes, more than the {} allowed here", path.string(), size, max_bytes));
  }
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd, text.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      ::close(fd);
      throw_errno(path, "cannot be read");
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  ::close(fd);
  text.resize(done);
  return text;
}

void write_file_durably(const std::filesystem::path& path, std::string_view bytes) {
  DurableFile file(path);
  file.write(bytes.data(), bytes.size());
  file.close_durably();
}

void replace_file_durably(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path beside = path.string() + ".tmp";
  try {
    write_file_durably(beside, bytes);
    if (::rename(beside.c_str(), path.c_str()) != 0) throw_errno(path, "cannot be replaced");
  } catch (...) {
    ::unlink(beside.c_str());
    throw;
  }
  fsync_folder(path.has_parent_path() ? path.parent_path() : ".");
}

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

std::vector<std::string> folder_entries(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  DIR* stream = ::opendir(folder.c_str());
  if (stream == nullptr) {
    if (errno == ENOENT) return names;
    throw_errno(folder, "cannot be listed");
  }
  while (const dirent* entry = ::readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  ::closedir(stream);
  std::sort(names.begin(), names.end());
  return names;
}

void fsync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_errno(folder, "cannot be opened");
  const int rc = ::fsync(fd);
  ::close(fd);
  if (rc != 0) throw_errno(folder, "cannot be synced");
}

DurableFile::DurableFile(const std::filesystem::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) throw_errno(path_, "cannot be created");
}

DurableFile::~DurableFile() {
  if (fd_ >= 0) ::close(fd_);
}

void DurableFile::write(const void* data, std::size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(fd_, at, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_errno(path_, "cannot be written");
    at += put;
    bytes -= static_cast<std::size_t>(put);
  }
}

void DurableFile::close_durably() {
  if (::fsync(fd_) != 0) throw_errno(path_, "cannot be synced");
  if (::close(std::exchange(fd_, -1)) != 0) throw_errno(path_, "cannot be closed");
}

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

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  std::uint64_t size = 0;
  const int fd = open_regular(path, size);
  size_ = size;
  if (size_ > 0) {
    data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      ::close(fd);
      throw_errno(path, "cannot be mapped");
    }
  }
  ::close(fd);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string xxh3_hex(std::span<const std::byte> bytes) { return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size())); }

}  // namespace meristem
