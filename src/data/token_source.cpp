#include "data/token_source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
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

}  // namespace

TokenSource TokenSource::open(const fs::path& path) {
  const fs::path extension = path.extension();
  const std::string prefix = (extension == ".bin" || extension == ".idx" ? fs::path(path).replace_extension() : path).string();
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
    if (size % 2 != 0) {
      throw DamagedError(fmt::format("{}: byte {}: an odd number of bytes, where bare files hold uint16 tokens", name, size));
    }
    tokens_ = size / 2;
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

}  // namespace meristem
