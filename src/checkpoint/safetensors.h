// Safetensors files: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes without holes.
// The reader trusts nothing; the writer's files are read by every other implementation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"

namespace meristem {

// A named, dense, row-major tensor whose bytes live elsewhere.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;

  std::int64_t elements() const;
  std::size_t bytes() const;
};

// A file, mapped; its header is validated completely before anything can be read. Bytes are paged in when they are touched.
class SafetensorsFile {
 public:
  // Missing or unreadable file: InputError. Anything wrong inside: DamagedError that names the file and the byte offset or key.
  static SafetensorsFile open(const std::filesystem::path& path);

  // In file order. Data is aligned to the element size in files that this project wrote; in others it may not be: copy with memcpy.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return index_.contains(name); }
  const TensorView& at(const std::string& name) const;  // DamagedError where it is missing
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }
  std::span<const std::byte> file_bytes() const { return file_.bytes(); }

 private:
  explicit SafetensorsFile(const std::filesystem::path& path) : file_(path) {}
  void read_header();

  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes; the limit of the reference implementation

// Exact size of the file that write_safetensors would write.
std::uint64_t safetensors_size(std::span<const TensorView> tensors, const std::map<std::string, std::string>& metadata);

// Writes and fsyncs. Wide element types come first (order is otherwise kept) and the data starts at a multiple of 64 bytes, so
// that every tensor is aligned to its element size in the file. Names must be unique valid UTF-8 and not "__metadata__" (InputError).
FileDigest write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                             const std::map<std::string, std::string>& metadata = {});

}  // namespace meristem
