// Small shards, and index files built byte by byte: what other programs write must be readable too, and every field damageable.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/errors.h"
#include "core/file.h"
#include "data/shard.h"
#include "support/message_of.h"
#include "support/shard_writer.h"

namespace meristem::test {

using Documents = std::vector<std::vector<std::int32_t>>;

inline void write_shard(const std::filesystem::path& prefix, const Documents& documents, std::int64_t vocab_size) {
  ShardWriter writer(prefix, {vocab_size, ""});
  for (const auto& document : documents) writer.add_document(document);
  writer.finish();
}

// PREFIX.mask, known to the manifest that stands there.
inline void write_mask(const std::filesystem::path& prefix, const std::string& mask) {
  const std::filesystem::path json = prefix.string() + ".json";
  ShardManifest manifest = *read_shard_manifest(json);
  manifest.mask = ShardFile{static_cast<std::int64_t>(mask.size()), xxh3_hex(std::as_bytes(std::span(mask)))};
  manifest.trained_tokens = std::count(mask.begin(), mask.end(), '\1');
  write_file_durably(prefix.string() + ".mask", mask);
  write_file_durably(json, shard_manifest_json(manifest));
}

// Documents of these lengths whose token ids count up from `first` over the whole shard: an id tells where its token stands.
inline Documents counting_documents(const std::vector<std::int64_t>& lengths, std::int32_t first = 0) {
  Documents documents;
  for (const std::int64_t length : lengths) {
    documents.emplace_back(static_cast<std::size_t>(length));
    std::iota(documents.back().begin(), documents.back().end(), first);
    first += static_cast<std::int32_t>(length);
  }
  return documents;
}

template <class Int>
void append(std::string& bytes, Int value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

struct RawIndex {
  std::string magic{"MMIDIDX\0\0", 9};
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> lengths;
  std::vector<std::int64_t> pointers, documents;

  std::string bytes() const {
    std::string out = magic;
    append(out, version);
    append(out, code);
    append(out, static_cast<std::uint64_t>(lengths.size()));
    append(out, static_cast<std::uint64_t>(documents.size()));
    for (const auto value : lengths) append(out, value);
    for (const auto value : pointers) append(out, value);
    for (const auto value : documents) append(out, value);
    return out;
  }
};

inline DataConfig data_config(std::int64_t sequence_length, bool mask,
                              const std::vector<std::pair<std::string, std::filesystem::path>>& sources) {
  DataConfig config;
  config.sequence_length = sequence_length;
  config.document_mask = mask;
  for (const auto& [name, path] : sources) config.sources.push_back({name, {path.string(), 0}});
  return config;
}

inline PhaseConfig phase(const std::string& name, double from_step, std::vector<std::pair<std::string, double>> mixture) {
  PhaseConfig config;
  config.name = name;
  config.from_step = {from_step, false};
  config.mixture = std::move(mixture);
  return config;
}

}  // namespace meristem::test
