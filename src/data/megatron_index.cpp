#include "data/megatron_index.h"

#include <cstring>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"

namespace meristem {
namespace {

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::filesystem::path& path) : bytes_(bytes), path_(path) {}

  template <class T>
  T take(const char* what) {
    T value;
    need(sizeof(T), what);
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  template <class T>
  std::vector<T> take_array(std::uint64_t count, const char* what) {
    if (count > (bytes_.size() - at_) / sizeof(T)) {
      fail(fmt::format("{} {} do not fit into the {} bytes that are left", count, what, bytes_.size() - at_));
    }
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return values;
  }
  void need(std::size_t count, const char* what) const {
    if (count > bytes_.size() - at_) fail(fmt::format("the file ends inside {}", what));
  }
  [[noreturn]] void fail(const std::string& what) const { fail_at(at_, what); }
  [[noreturn]] void fail_at(std::size_t at, const std::string& what) const {
    throw DamagedError(fmt::format("{}: byte offset {}: {}", path_.string(), at, what));
  }
  std::size_t at() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }

 private:
  std::span<const std::byte> bytes_;
  const std::filesystem::path& path_;
  std::size_t at_ = 0;
};

void read_magic(Cursor& cursor) {
  char magic[sizeof kMegatronMagic];
  for (char& c : magic) c = cursor.take<char>("the magic");
  if (std::memcmp(magic, kMegatronMagic, sizeof magic) != 0) cursor.fail_at(0, "is no Megatron index (magic MMIDIDX is missing)");
  const auto version = cursor.take<std::uint64_t>("the version");
  if (version != 1) cursor.fail_at(9, fmt::format("version is {}, expected 1", version));
}

}  // namespace

MegatronIndex read_megatron_index(const std::filesystem::path& path, std::uint64_t bin_bytes) {
  const MappedFile file(path);
  Cursor cursor(file.bytes(), path);
  read_magic(cursor);
  MegatronIndex index;
  const auto code = cursor.take<std::uint8_t>("the element code");
  if (code != kMegatronInt32 && code != kMegatronUint16) cursor.fail_at(17, fmt::format("element code is {}, expected 4 (int32) or 8 (uint16)", code));
  index.element_bytes = code == kMegatronUint16 ? 2 : 4;
  const auto sequences = cursor.take<std::uint64_t>("the number of sequences");
  const auto entries = cursor.take<std::uint64_t>("the number of document entries");

  const std::size_t lengths_at = cursor.at();
  const auto lengths = cursor.take_array<std::int32_t>(sequences, "sequence lengths");
  const std::size_t offsets_at = cursor.at();
  const auto offsets = cursor.take_array<std::int64_t>(sequences, "sequence offsets");
  const std::size_t documents_at = cursor.at();
  const auto documents = cursor.take_array<std::int64_t>(entries, "document entries");
  if (cursor.left() != 0) cursor.fail(fmt::format("{} bytes are left over", cursor.left()));

  std::vector<std::int64_t> starts{0};  // of sequences, in tokens
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) cursor.fail_at(lengths_at + 4 * i, fmt::format("length of sequence {} is {}", i, lengths[i]));
    if (offsets[i] != starts.back() * index.element_bytes) {
      cursor.fail_at(offsets_at + 8 * i, fmt::format("offset of sequence {} is {}, expected {}", i, offsets[i], starts.back() * index.element_bytes));
    }
    starts.push_back(starts.back() + lengths[i]);
  }
  if (static_cast<std::uint64_t>(starts.back()) * static_cast<std::uint64_t>(index.element_bytes) != bin_bytes) {
    cursor.fail_at(lengths_at, fmt::format("the lengths sum to {} tokens of {} bytes; the .bin file has {} bytes", starts.back(), index.element_bytes, bin_bytes));
  }
  if (documents.empty() || documents.front() != 0) cursor.fail_at(documents_at, "the first document entry is not 0");
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::int64_t before = i == 0 ? 0 : documents[i - 1];
    if (documents[i] < before || documents[i] > static_cast<std::int64_t>(lengths.size())) {
      cursor.fail_at(documents_at + 8 * i, fmt::format("document entry {} is {}, allowed: {} to {}", i, documents[i], before, lengths.size()));
    }
    index.document_start.push_back(starts[static_cast<std::size_t>(documents[i])]);
  }
  if (documents.back() != static_cast<std::int64_t>(lengths.size())) {
    cursor.fail_at(documents_at + 8 * (documents.size() - 1), fmt::format("the last document entry is {}, expected {}", documents.back(), lengths.size()));
  }
  return index;
}

}  // namespace meristem
