#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "data/validation_reader.h"

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

// Ids of a tokenizer.json: its largest id + 1, added tokens included. DamagedError where it is no such file.
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

}  // namespace

void require_fitting_ids(const std::filesystem::path& tokenizer, std::int64_t vocab_size) {
  const std::int64_t ids = tokenizer_size(tokenizer);
  if (ids > vocab_size) throw InputError(fmt::format("{}: has {} ids, model.vocab_size is {}", tokenizer.string(), ids, vocab_size));
}

namespace {

// The hash of tokenizer.json, after checking that its ids fit the model; empty where no tokenizer is given.
std::string checked_tokenizer_hash(const DataConfig& config, std::int64_t vocab_size) {
  if (config.tokenizer.empty()) return "";
  return with_key("data.tokenizer", [&] {
    require_fitting_ids(config.tokenizer, vocab_size);
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

// Without a target there is no loss, and zero would be the best one of all.
void require_target(const std::string& key, const SourceConfig& source, const DataConfig& config, std::int64_t vocab_size) {
  ValidationReader reader(source, config.sequence_length, config.document_mask, vocab_size, config.validation.tokens,
                          config.packing == Packing::kBestFit);
  while (const auto batch = reader.next(8)) {
    if (std::any_of(batch->targets.begin(), batch->targets.end(), [](std::int32_t target) { return target >= 0; })) return;
  }
  throw InputError(fmt::format("{}: {} has no token to validate on: none of those that are read ({} sequences of {}) is trained on", key,
                               source.path, reader.num_sequences(), config.sequence_length));
}

// The training sources in config order. Validation sources are opened and checked too.
std::vector<std::shared_ptr<const TokenSource>> open_sources(const DataConfig& config, std::int64_t vocab_size) {
  if (config.sources.empty()) throw InputError("data.sources: names no source");
  const std::string hash = checked_tokenizer_hash(config, vocab_size);
  std::vector<std::shared_ptr<const TokenSource>> sources;
  for (const auto& [name, source] : config.sources)
    sources.push_back(open_source("data.sources." + name, source, config, vocab_size, hash));
  for (const auto& [name, source] : config.validation.sources) {
    const std::string key = "data.validation." + name;
    open_source(key, source, config, vocab_size, hash);
    require_target(key, source, config, vocab_size);
  }
  text_making(config);  // they agree
  return sources;
}

SequenceSampler sampler_of(const DataConfig& config, const std::vector<RowStream>& streams, const std::vector<PhaseConfig>& phases,
                           std::int64_t sequences_per_step) {
  std::vector<SampledSource> sources;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const auto& [name, source] = config.sources[i];
    sources.push_back({name, streams[i].positions_per_epoch(), source.max_repeats});
  }
  return SequenceSampler(std::move(sources), phases, config.sequence_length, sequences_per_step);
}

std::vector<RowStream> open_streams(const DataConfig& config, std::int64_t vocab_size, std::int64_t seed) {
  std::vector<RowStream> streams;
  const auto sources = open_sources(config, vocab_size);
  for (std::size_t i = 0; i < sources.size(); ++i) {
    streams.emplace_back(sources[i], static_cast<std::uint64_t>(seed), config.sources[i].first, config);
  }
  return streams;
}

// Rows kept ahead: about a million tokens, within reason.
std::size_t rows_ahead(std::int64_t length) { return static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 20) / length, 8, 512)); }

}  // namespace

TextMaking text_making(const DataConfig& config) {
  TextMaking making;
  std::string begun_by, rendered_by, ended_by;  // the sources that said so first
  bool ends_agree = true;
  const auto take = [&](const std::string& key, const SourceConfig& source) {
    const auto manifest = read_shard_manifest(shard_prefix(source.path) + ".json");
    if (!manifest || manifest->tokenizer_hash.empty()) return;  // not of text, as far as it tells
    const std::string name = fmt::format("{}: {}", key, source.path);
    if (begun_by.empty()) {
      making.begin_of_text = manifest->begin_of_text;
      begun_by = name;
    } else if (*making.begin_of_text != manifest->begin_of_text) {
      throw InputError(
          fmt::format("{}: its texts begin with the ids {}, those of {} with {}; tokenize one of them again, with another --bos", name,
                      manifest->begin_of_text, begun_by, *making.begin_of_text));
    }
    if (manifest->end_of_text && ended_by.empty()) {
      making.end_of_text = manifest->end_of_text;
      ended_by = name;
    }
    ends_agree &= !manifest->end_of_text || manifest->end_of_text == making.end_of_text;
    if (manifest->chat_template.empty()) return;
    if (rendered_by.empty()) {
      making.chat_template = manifest->chat_template;
      making.end_of_turn = manifest->end_of_turn;
      rendered_by = name;
    } else if (making.chat_template != manifest->chat_template) {
      throw InputError(fmt::format(
          "{}: was rendered by another chat template than {}; tokenize one of them again, with the --chat-template of the other", name,
          rendered_by));
    }
  };
  for (const auto& [name, source] : config.sources) take("data.sources." + name, source);
  for (const auto& [name, source] : config.validation.sources) take("data.validation." + name, source);
  if (!ends_agree) making.end_of_text.reset();
  return making;
}

Loader::Loader(const DataConfig& config, const std::vector<PhaseConfig>& phases, std::int64_t sequences_per_step, std::int64_t vocab_size,
               std::int64_t seed, int rank, int world_size)
    : world_size_(world_size),
      format_{config.sequence_length, config.document_mask, vocab_size},
      first_(sequences_per_step / world_size * rank),
      last_(sequences_per_step / world_size * (rank + 1)),
      streams_(open_streams(config, vocab_size, seed)),
      handed_out_(sampler_of(config, streams_, phases, sequences_per_step)) {
  if (sequences_per_step % world_size != 0) {
    throw InputError(
        fmt::format("batch.tokens: an update has {} sequences, which {} ranks cannot share evenly", sequences_per_step, world_size));
  }
}

Loader::~Loader() { stop(); }

HostBatch Loader::next(std::int64_t sequences) {
  if (!thread_.joinable()) start();
  HostBatch batch;
  batch.length = format_.length;
  for (std::int64_t i = 0; i < sequences; ++i) {
    const Row row = take_row();
    append_rows(row.batch, batch);
    count_row();
  }
  return batch;
}

Loader::Row Loader::take_row() {
  std::unique_lock lock(mutex_);
  if (rows_.empty()) {
    const auto begin = std::chrono::steady_clock::now();
    changed_.wait(lock, [&] { return !rows_.empty(); });
    seconds_waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  // An error stays at the front: the thread has ended with it, and a second call must not wait for more.
  if (rows_.front().error) std::rethrow_exception(rows_.front().error);
  Row row = std::move(rows_.front());
  rows_.pop_front();
  lock.unlock();
  changed_.notify_one();
  return row;
}

// Moves the position past the row and past the other ranks' sequences around it.
void Loader::count_row() {
  while (!mine(handed_out_.in_step())) handed_out_.next();
  handed_out_.next();
  if (handed_out_.in_step() != last_) return;
  while (handed_out_.in_step() != 0) handed_out_.next();
}

LoaderPosition Loader::position() const {
  if (handed_out_.in_step() != 0 && world_size_ > 1) throw std::logic_error("Loader::position: inside an update");
  return handed_out_.position();
}

void Loader::seek(const LoaderPosition& position) {
  if (position.in_step != 0 && world_size_ > 1) {
    throw InputError(fmt::format("loader position: in_step: {}; inside an update only one rank can go on", position.in_step));
  }
  stop();
  handed_out_.seek(position);
}

std::vector<PackingReport> Loader::packing() const {
  std::vector<PackingReport> reports;
  for (const RowStream& stream : streams_) {
    if (auto report = stream.packing()) reports.push_back(std::move(*report));
  }
  return reports;
}

std::map<std::string, std::string> Loader::fingerprints() const {
  std::map<std::string, std::string> out;
  const std::vector<SourceUse> sources = handed_out_.use();
  for (std::size_t i = 0; i < streams_.size(); ++i) out[sources[i].name] = streams_[i].source().fingerprint();
  return out;
}

void Loader::start() {
  stop_ = false;
  thread_ = std::thread([this, sampler = handed_out_]() mutable { read_ahead(std::move(sampler)); });
}

void Loader::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  rows_.clear();
}

void Loader::read_ahead(SequenceSampler sampler) {
  Row row;
  do {
    row = {};
    try {
      while (!mine(sampler.in_step())) sampler.next();
      const SequenceOrigin origin = sampler.next();
      RowStream& stream = streams_[origin.source];
      append_row(stream.source(), stream.row(origin.offset), format_, static_cast<std::int32_t>(origin.source), row.batch);
    } catch (...) {
      row.error = std::current_exception();
      push(std::move(row));
      return;
    }
  } while (push(std::move(row)));
}

// Waits for room. False where the loader stops.
bool Loader::push(Row row) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stop_ || rows_.size() < rows_ahead(format_.length); });
  if (stop_) return false;
  rows_.push_back(std::move(row));
  lock.unlock();
  changed_.notify_one();
  return true;
}

}  // namespace meristem
