// Files: whole reads with a size bound, memory maps, and the durable writes that checkpoints rest on.
// All errors name the path. Read-only folders and missing files are InputError (exit 2); a full disk is SystemError (exit 1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace meristem {

// Throws for the current errno: "PATH: WHAT: REASON", as an InputError where the path itself is at fault, else as a SystemError.
[[noreturn]] void throw_errno(const std::filesystem::path& path, const char* what);

// The whole file as bytes; refuses (InputError) files over max_bytes, folders and missing files.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = 64ull << 20);

// Creates (or truncates) `path`, writes, fsyncs, closes. Errors name the path.
void write_file_durably(const std::filesystem::path& path, std::string_view bytes);

// The same, but published whole: written to `path`.tmp, fsynced, renamed, folder fsynced. What stood there stays where that fails.
void replace_file_durably(const std::filesystem::path& path, std::string_view bytes);

// False also where it cannot be told.
bool is_folder(const std::filesystem::path& path);

// The names inside a folder, sorted. Empty where there is no such folder.
std::vector<std::string> folder_entries(const std::filesystem::path& folder);

// fsync of a folder, so that a rename inside it survives a power cut.
void fsync_folder(const std::filesystem::path& folder);

// A file descriptor that is written in order and made durable at `close_durably`.
class DurableFile {
 public:
  explicit DurableFile(const std::filesystem::path& path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  void write(const void* data, std::size_t bytes);
  void close_durably();  // fsync, then close

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

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

// A whole file mapped read-only. Empty files map to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// xxh3 (64 bit) of bytes as 16 lower-case hex digits.
std::string xxh3_hex(std::span<const std::byte> bytes);

}  // namespace meristem
