#include "data/open_sources.h"

#include <algorithm>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"

namespace meristem {
namespace {

constexpr std::uint64_t kLargestTokenizer = 256ull << 20;
constexpr std::int64_t kLargestId = (std::int64_t{1} << 31) - 1;

// What is wrong with a path is said with the key that holds it.
template <class Action>
auto with_key(const std::string& key, Action&& action) {
  try {
    return action();
  } catch (const InputError& error) {
    throw InputError(key + ": " + error.what());
  }
}

// The hash of tokenizer.json, after checking that its ids fit the model; empty where no tokenizer is given.
std::string checked_tokenizer_hash(const DataConfig& config, std::int64_t vocab_size) {
  if (config.tokenizer.empty()) return "";
  return with_key("data.tokenizer", [&] {
    const std::int64_t ids = tokenizer_size(config.tokenizer);
    if (ids > vocab_size) throw InputError(fmt::format("{}: has {} ids, model.vocab_size is {}", config.tokenizer, ids, vocab_size));
    const std::string bytes = read_file(config.tokenizer, kLargestTokenizer);
    return xxh3_hex(std::as_bytes(std::span(bytes)));
  });
}

std::shared_ptr<const TokenSource> open_source(const std::string& key, const SourceConfig& config, const DataConfig& data,
                                               std::int64_t vocab_size, const std::string& tokenizer_hash) {
  auto source = with_key(key + ".path", [&] { return std::make_shared<const TokenSource>(TokenSource::open(config.path)); });
  const auto& manifest = source->manifest();
  if (manifest && manifest->vocab_size > vocab_size) {
    throw InputError(
        fmt::format("{}: {} was made with a vocabulary of {}, model.vocab_size is {}", key, config.path, manifest->vocab_size, vocab_size));
  }
  if (!tokenizer_hash.empty() && manifest && !manifest->tokenizer_hash.empty() && manifest->tokenizer_hash != tokenizer_hash) {
    throw InputError(fmt::format("{}: {} was made with the tokenizer of hash {}, data.tokenizer {} has {}", key, config.path,
                                 manifest->tokenizer_hash, data.tokenizer, tokenizer_hash));
  }
  return source;
}

}  // namespace

std::vector<std::shared_ptr<const TokenSource>> open_sources(const DataConfig& config, std::int64_t vocab_size) {
  if (config.sources.empty()) throw InputError("data.sources: names no source");
  const std::string hash = checked_tokenizer_hash(config, vocab_size);
  std::vector<std::shared_ptr<const TokenSource>> sources;
  for (const auto& [name, source] : config.sources)
    sources.push_back(open_source("data.sources." + name, source, config, vocab_size, hash));
  for (const auto& [name, source] : config.validation.sources) open_source("data.validation." + name, source, config, vocab_size, hash);
  return sources;
}

std::int64_t tokenizer_size(const std::filesystem::path& path) {
  const nlohmann::json document = parse_json_strict(read_file(path, kLargestTokenizer), path.string());
  const JsonCursor json(document, path.string());
  std::int64_t size = 0;
  // Unigram lists its pieces in the order of their ids; the other models map each piece to its id.
  if (const auto vocab = document.find("model");
      vocab != document.end() && vocab->is_object() && vocab->contains("vocab") && (*vocab)["vocab"].is_array()) {
    size = static_cast<std::int64_t>((*vocab)["vocab"].size());
  } else {
    for (const auto& [piece, id] : json.at("model").at("vocab").members()) size = std::max(size, id.integer(0, kLargestId) + 1);
  }
  if (json.has("added_tokens")) {
    for (const JsonCursor& token : json.at("added_tokens").items()) size = std::max(size, token.at("id").integer(0, kLargestId) + 1);
  }
  return size;
}

}  // namespace meristem
