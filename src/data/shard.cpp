#include "data/shard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"

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

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kFlatHeader = 256 * 4;  // llm.c: 256 int32, of which the first three mean something

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// An id that no int32 holds becomes -1: outside every vocabulary.
template <class Stored>
void widen(const std::byte* from, std::int64_t count, std::int32_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof value, sizeof value);
    if constexpr (sizeof(Stored) < 4 || std::is_same_v<Stored, std::int32_t>) {
      out[i] = value;
    } else {
      out[i] = std::in_range<std::int32_t>(value) ? static_cast<std::int32_t>(value) : -1;
    }
  }
}

void widen(TokenType type, const std::byte* from, std::int64_t count, std::int32_t* out) {
  switch (type) {
    case TokenType::kU8: return widen<std::uint8_t>(from, count, out);
    case TokenType::kI8: return widen<std::int8_t>(from, count, out);
    case TokenType::kI16: return widen<std::int16_t>(from, count, out);
    case TokenType::kU16: return widen<std::uint16_t>(from, count, out);
    case TokenType::kI32: return widen<std::int32_t>(from, count, out);
    case TokenType::kU32: return widen<std::uint32_t>(from, count, out);
    case TokenType::kI64: return widen<std::int64_t>(from, count, out);
  }
}

std::optional<TokenType> token_type_of(const std::string& extension) {
  for (const TokenType type :
       {TokenType::kU8, TokenType::kI8, TokenType::kI16, TokenType::kU16, TokenType::kI32, TokenType::kU32, TokenType::kI64}) {
    if (extension == "." + token_type_name(type)) return type;
  }
  return std::nullopt;
}

// Bare ids say nothing of their type. Read as uint16, ids of 32 or 64 bits have a small number at every second place, which no text has.
// Too few, or all of them below 16, may still be uint16; zeros alone may not, if there are enough.
void refuse_wider_ids(const MappedFile& file) {
  constexpr std::size_t kLooked = 1 << 16;
  constexpr std::uint16_t kHigh = 16;  // ids below 2^20 have smaller upper halves
  const auto bytes = file.bytes();
  const std::size_t pairs = bytes.size() % 4 == 0 ? std::min(bytes.size() / 4, kLooked) : 0;
  std::uint16_t low = 0, high = 0;
  bool every_second_pair = true;  // is zero
  for (std::size_t i = 0; i < pairs; ++i) {
    std::array<std::uint16_t, 2> pair;
    std::memcpy(pair.data(), bytes.data() + 4 * i, sizeof pair);
    low = std::max(low, pair[0]);
    high = std::max(high, pair[1]);
    every_second_pair &= i % 2 == 0 || (pair[0] == 0 && pair[1] == 0);
  }
  if (!(pairs >= 4 && high < kHigh && low >= kHigh) && !(pairs >= 16 && high == 0 && low > 0)) return;
  const std::string prefix = shard_prefix(file.path());
  throw InputError(fmt::format(
      "{}: no header, and it looks like {} ids, not uint16: every second uint16 is at most {}; name it {}.{}.bin, or {}.uint16.bin if "
      "it does hold uint16",
      file.path().string(), every_second_pair ? "int64" : "uint32", high, prefix, every_second_pair ? "int64" : "uint32", prefix));
}

}  // namespace

TokenSource TokenSource::open(const fs::path& path) {
  const std::string prefix = shard_prefix(path);
  const fs::path bin = prefix + ".bin", idx = prefix + ".idx", json = prefix + ".json", mask = prefix + ".mask";
  if (!is_there(bin)) {
    throw InputError(fmt::format("{}: no such file; a source is the prefix of PREFIX.bin and PREFIX.idx{}", bin.string(),
                                 is_there(idx) ? ", of which only the .idx is there" : ""));
  }
  TokenSource source{MappedFile(bin)};
  source.manifest_ = read_shard_manifest(json);
  if (is_there(idx)) {
    source.open_index(idx);
    source.open_mask(mask);
  } else if (source.manifest_) {
    // Read as a bare file it would train on, with its documents lost.
    throw InputError(fmt::format("{}: no such file, but {} describes it", idx.string(), json.string()));
  } else {
    source.open_flat();
  }
  if (source.tokens_ == 0) throw InputError(fmt::format("{}: holds no tokens", bin.string()));
  return source;
}

void TokenSource::open_index(const fs::path& path) {
  index_.emplace(path, static_cast<std::int64_t>(bin_.bytes().size()));
  type_ = index_->type();
  tokens_ = index_->num_tokens();
  std::error_code ignored;
  if (manifest_) check_manifest(fs::path(bin_.path()).replace_extension(".json"), static_cast<std::int64_t>(fs::file_size(path, ignored)));
}

void TokenSource::open_mask(const fs::path& path) {
  const bool described = manifest_ && manifest_->mask;
  if (!is_there(path)) {
    // Without it, prompts would be trained on.
    if (described) throw InputError(fmt::format("{}: no such file, but the manifest describes it", path.string()));
    return;
  }
  if (manifest_ && !described) throw DamagedError(fmt::format("{}: the manifest knows nothing of a mask", path.string()));
  mask_.emplace(path);
  const auto bytes = static_cast<std::int64_t>(mask_->bytes().size());
  if (bytes != tokens_) {
    throw DamagedError(fmt::format("{}: byte {}: a mask of {} bytes for {} tokens, one byte each", path.string(), bytes, bytes, tokens_));
  }
  if (described && manifest_->mask->bytes != bytes) {
    throw DamagedError(fmt::format("{}: has {} bytes, the manifest says {}", path.string(), bytes, manifest_->mask->bytes));
  }
  if (described && manifest_->trained_tokens == 0) throw InputError(fmt::format("{}: trains on no token", path.string()));
}

void TokenSource::open_flat() {
  const auto size = static_cast<std::int64_t>(bin_.bytes().size());
  std::array<std::int32_t, 3> head{};
  if (size >= static_cast<std::int64_t>(sizeof head)) std::memcpy(head.data(), bin_.bytes().data(), sizeof head);
  const auto [magic, version, tokens] = head;
  const std::string name = bin_.path().string();
  if (magic == 20240520 || magic == 20240801) {
    type_ = magic == 20240520 ? TokenType::kU16 : TokenType::kU32;
    const std::int32_t known = magic == 20240520 ? 1 : 7;
    if (version != known) throw DamagedError(fmt::format("{}: byte 4: version {}, magic {} goes with {}", name, version, magic, known));
    if (tokens < 0 || kFlatHeader + tokens * token_bytes(type_) != size) {
      throw DamagedError(fmt::format("{}: byte 8: {} tokens of {}, but the file has {} bytes", name, tokens, token_type_name(type_), size));
    }
    header_ = kFlatHeader;
    tokens_ = tokens;
  } else {
    const std::optional<TokenType> said = token_type_of(bin_.path().stem().extension().string());
    type_ = said.value_or(TokenType::kU16);
    if (const std::int64_t width = token_bytes(type_); size % width != 0) {
      throw DamagedError(
          fmt::format("{}: byte {}: not a whole number of tokens, where bare files hold {}", name, size, token_type_name(type_)));
    }
    if (!said) refuse_wider_ids(bin_);
    tokens_ = size / token_bytes(type_);
  }
}

void TokenSource::check_manifest(const fs::path& path, std::int64_t index_bytes) const {
  const auto agree = [&](const char* key, const auto& said, const auto& found) {
    if (said != found) throw DamagedError(fmt::format("{}: {}: says {}, {} has {}", path.string(), key, said, bin_.path().string(), found));
  };
  agree("tokens", manifest_->tokens, num_tokens());
  agree("documents", manifest_->documents, num_documents());
  agree("dtype", printable(manifest_->dtype), token_type_name(type_));
  agree("files.bin.bytes", manifest_->bin.bytes, static_cast<std::int64_t>(bin_.bytes().size()));
  agree("files.idx.bytes", manifest_->idx.bytes, index_bytes);
}

std::int64_t TokenSource::document_begin(std::int64_t document) const {
  if (index_) return index_->document_begin(document);
  return document == 0 ? 0 : tokens_;
}

std::int64_t TokenSource::document_length(std::int64_t document) const {
  if (document < 0 || document >= num_documents()) throw std::out_of_range("TokenSource::document_length: no such document");
  return document_begin(document + 1) - document_begin(document);
}

// Place of a document's token in the .bin, after checking that `count` tokens from there on are the document's.
std::int64_t TokenSource::first_token(std::int64_t document, std::int64_t begin, std::int64_t count) const {
  const std::int64_t length = document_length(document);
  if (begin < 0 || count < 0 || begin > length || count > length - begin) throw std::out_of_range("TokenSource::read: beyond the document");
  return document_begin(document) + begin;
}

void TokenSource::read_mask(std::int64_t document, std::int64_t begin, std::int64_t count, std::uint8_t* out) const {
  const std::int64_t first = first_token(document, begin, count);
  if (count == 0) return;  // of an empty document even `out` may be null
  if (!mask_) {
    std::fill_n(out, count, std::uint8_t{1});
    return;
  }
  std::memcpy(out, mask_->bytes().data() + first, static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    if (out[i] > 1)
      throw DamagedError(fmt::format("{}: byte {}: found {}, a mask holds 0 and 1", mask_->path().string(), first + i, out[i]));
  }
}

void TokenSource::read(std::int64_t document, std::int64_t begin, std::int64_t count, std::int32_t* out, std::int64_t vocab_size) const {
  const std::int64_t first = first_token(document, begin, count);
  widen(type_, bin_.bytes().data() + header_ + first * token_bytes(type_), count, out);
  bool inside = true;
  for (std::int64_t i = 0; i < count; ++i) inside &= out[i] >= 0 && out[i] < vocab_size;
  if (!inside) outside_vocabulary(first, out, count, vocab_size);
}

void TokenSource::outside_vocabulary(std::int64_t token, const std::int32_t* read, std::int64_t count, std::int64_t vocab_size) const {
  for (std::int64_t i = 0; i < count; ++i) {
    if (read[i] >= 0 && read[i] < vocab_size) continue;
    const std::string found = read[i] >= 0 ? std::to_string(read[i]) : "that is negative or beyond int32";
    throw DamagedError(fmt::format("{}: byte {}: token id {}, the vocabulary has {}", bin_.path().string(),
                                   header_ + (token + i) * token_bytes(type_), found, vocab_size));
  }
  throw std::logic_error("TokenSource: no token outside the vocabulary");
}

std::string TokenSource::fingerprint() const {
  constexpr std::size_t kBytes = 1 << 20;
  const auto bytes = bin_.bytes();
  const std::size_t part = std::min(kBytes, bytes.size());
  return fmt::format("{} tokens in {} documents, {} {}", num_tokens(), num_documents(), xxh3_hex(bytes.first(part)),
                     xxh3_hex(bytes.last(part)));
}

}  // namespace meristem
