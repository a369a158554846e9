#include "data/shard_index.h"

#include <array>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and read in place");

constexpr std::array<char, 9> kIndexMagic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr std::size_t kVersionAt = 9, kTypeAt = 17, kSequencesAt = 18, kDocumentsAt = 26, kIndexHeader = 34;

}  // namespace

std::int64_t token_bytes(TokenType type) {
  switch (type) {
    case TokenType::kU8:
    case TokenType::kI8: return 1;
    case TokenType::kI16:
    case TokenType::kU16: return 2;
    case TokenType::kI32:
    case TokenType::kU32: return 4;
    case TokenType::kI64: return 8;
  }
  return 0;
}

std::string token_type_name(TokenType type) {
  switch (type) {
    case TokenType::kU8: return "uint8";
    case TokenType::kI8: return "int8";
    case TokenType::kI16: return "int16";
    case TokenType::kU16: return "uint16";
    case TokenType::kI32: return "int32";
    case TokenType::kU32: return "uint32";
    case TokenType::kI64: return "int64";
  }
  return "";
}

ShardIndex::ShardIndex(const std::filesystem::path& path, std::int64_t bin_bytes) : file_(path) {
  check_header();
  check_sequences(bin_bytes);
  check_documents();
}

std::int64_t ShardIndex::document_begin(std::int64_t document) const {
  const auto sequence = at<std::int64_t>(documents_at() + 8 * static_cast<std::size_t>(document));
  if (sequence == sequences_) return tokens_;
  return at<std::int64_t>(pointers_at() + 8 * static_cast<std::size_t>(sequence)) / token_bytes(type_);
}

// The header is 34 bytes, so nothing behind it is aligned.
template <class Int>
Int ShardIndex::at(std::size_t offset) const {
  Int value;
  std::memcpy(&value, file_.bytes().data() + offset, sizeof value);
  return value;
}

std::size_t ShardIndex::lengths_at() const { return kIndexHeader; }
std::size_t ShardIndex::pointers_at() const { return lengths_at() + 4 * static_cast<std::size_t>(sequences_); }
std::size_t ShardIndex::documents_at() const { return pointers_at() + 8 * static_cast<std::size_t>(sequences_); }

void ShardIndex::check_header() {
  const std::size_t size = file_.bytes().size();
  if (size < kIndexHeader) damaged(size, fmt::format("truncated: the header takes {} bytes", kIndexHeader));
  if (std::memcmp(file_.bytes().data(), kIndexMagic.data(), kIndexMagic.size()) != 0) {
    damaged(0, "does not begin with MMIDIDX: not a Megatron index");
  }
  if (const auto version = at<std::uint64_t>(kVersionAt); version != 1) {
    damaged(kVersionAt, fmt::format("version {}, this program reads 1", version));
  }
  switch (const auto code = at<std::uint8_t>(kTypeAt)) {
    case 1: type_ = TokenType::kU8; break;
    case 2: type_ = TokenType::kI8; break;
    case 3: type_ = TokenType::kI16; break;
    case 4: type_ = TokenType::kI32; break;
    case 5: type_ = TokenType::kI64; break;
    case 8: type_ = TokenType::kU16; break;
    default: damaged(kTypeAt, fmt::format("type code {}, allowed: 1 to 5 and 8 (integers)", code));
  }
  // Counts are compared with what the file can hold before anything is multiplied.
  const auto sequences = at<std::uint64_t>(kSequencesAt), entries = at<std::uint64_t>(kDocumentsAt);
  const std::uint64_t room = size - kIndexHeader;
  if (sequences > room / 12) damaged(kSequencesAt, fmt::format("{} sequences, but the file has {} bytes", sequences, size));
  if (entries > (room - 12 * sequences) / 8) {
    damaged(kDocumentsAt, fmt::format("{} document entries, but the file has {} bytes", entries, size));
  }
  if (entries == 0) damaged(kDocumentsAt, "0 document entries, there is at least 1");
  sequences_ = static_cast<std::int64_t>(sequences);
  documents_ = static_cast<std::int64_t>(entries) - 1;
  const std::size_t end = documents_at() + 8 * static_cast<std::size_t>(entries);
  if (end != size) damaged(end, fmt::format("{} bytes after the last document entry", size - end));
}

void ShardIndex::check_sequences(std::int64_t bin_bytes) {
  const std::int64_t width = token_bytes(type_);
  std::int64_t expected = 0;
  for (std::int64_t i = 0; i < sequences_; ++i) {
    const std::size_t length_at = lengths_at() + 4 * static_cast<std::size_t>(i),
                      pointer_at = pointers_at() + 8 * static_cast<std::size_t>(i);
    const std::int64_t length = at<std::int32_t>(length_at), pointer = at<std::int64_t>(pointer_at);
    if (length < 0) damaged(length_at, fmt::format("sequence {} has length {}", i, length));
    if (pointer != expected) {
      damaged(pointer_at, fmt::format("sequence {} begins at byte {} of the .bin, the one before it ends at {}", i, pointer, expected));
    }
    if (length > (bin_bytes - expected) / width) {
      damaged(length_at, fmt::format("sequence {} has {} tokens and ends beyond the .bin of {} bytes", i, length, bin_bytes));
    }
    expected += length * width;
  }
  if (expected != bin_bytes) {
    damaged(kSequencesAt, fmt::format("the {} sequences take {} bytes, the .bin has {}", sequences_, expected, bin_bytes));
  }
  tokens_ = bin_bytes / width;
}

void ShardIndex::check_documents() const {
  std::int64_t before = 0;
  for (std::int64_t i = 0; i <= documents_; ++i) {
    const std::size_t offset = documents_at() + 8 * static_cast<std::size_t>(i);
    const auto first = at<std::int64_t>(offset);
    if (i == 0 && first != 0) damaged(offset, fmt::format("the first document begins at sequence {}, not at 0", first));
    if (first < before || first > sequences_) {
      damaged(offset, fmt::format("document entry {} is {}, allowed: {} to {}", i, first, before, sequences_));
    }
    if (i == documents_ && first != sequences_) {
      damaged(offset, fmt::format("the last document ends at sequence {}, there are {}", first, sequences_));
    }
    before = first;
  }
}

void ShardIndex::damaged(std::size_t offset, const std::string& what) const {
  throw DamagedError(fmt::format("{}: byte {}: {}", file_.path().string(), offset, what));
}

}  // namespace meristem
