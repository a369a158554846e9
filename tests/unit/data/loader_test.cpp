// What comes out of the loader: order, shares of ranks, resuming, masks, errors.
#include <algorithm>
#include <chrono>
#include <thread>

#include "core/counter_rng.h"
#include "data/loader.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

constexpr std::int64_t kVocab = 100'000;

// Three sources of different sizes whose ids do not overlap, and a phase switch.
struct Corpus {
  TempDir folder;
  std::vector<std::pair<std::string, std::filesystem::path>> sources;
  std::vector<PhaseConfig> phases{phase("stable", 0, {{"web", 0.5}, {"code", 0.3}, {"math", 0.2}}),
                                  phase("cooldown", 5, {{"math", 3}, {"web", 1}})};
  static constexpr std::int64_t kPerStep = 12;

  Corpus() {
    std::int32_t first = 0;
    for (const auto& [name, documents] : std::vector<std::pair<std::string, int>>{{"web", 60}, {"code", 25}, {"math", 7}}) {
      std::vector<std::int64_t> lengths;
      for (int i = 0; i < documents; ++i) {
        lengths.push_back(1 + static_cast<std::int64_t>(random_u64(stream_key(9, name), static_cast<std::uint64_t>(i)) % 20));
      }
      write_shard(folder / name, counting_documents(lengths, first), kVocab);
      first += 10'000;
      sources.emplace_back(name, folder / name);
    }
  }
  Loader loader(int rank = 0, int world = 1, bool mask = true) const {
    return Loader(data_config(16, mask, sources), phases, kPerStep, kVocab, 3, rank, world);
  }
};

using Rows = std::vector<std::vector<std::int32_t>>;

Rows inputs_of(const HostBatch& batch) {
  Rows rows;
  for (std::int64_t i = 0; i < batch.sequences; ++i) {
    rows.emplace_back(batch.inputs.begin() + i * batch.length, batch.inputs.begin() + (i + 1) * batch.length);
  }
  return rows;
}

Rows take(Loader& loader, std::int64_t sequences, std::int64_t at_once = 1) {
  Rows rows;
  for (std::int64_t done = 0; done < sequences; done += at_once) {
    for (auto& row : inputs_of(loader.next(std::min(at_once, sequences - done)))) rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

TEST_CASE("inputs run through the stream, targets are one ahead, sequences span documents and epochs") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({5, 9, 1, 8}), kVocab);
  Loader loader(data_config(7, false, {{"x", folder / "x"}}), {}, 1, kVocab, 1);
  std::vector<std::int32_t> inputs, targets;
  for (int i = 0; i < 23; ++i) {
    const HostBatch batch = loader.next(1);
    inputs.insert(inputs.end(), batch.inputs.begin(), batch.inputs.end());
    targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
    CHECK(batch.boundaries == std::vector<std::int32_t>{0, 7});
    CHECK(batch.positions == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6});
  }
  CHECK(std::equal(inputs.begin() + 1, inputs.end(), targets.begin()));
  for (int epoch = 0; epoch < 7; ++epoch) {  // 23 sequences of 7 are 7 epochs of 23 tokens
    std::vector<std::int32_t> ids(inputs.begin() + 23 * epoch, inputs.begin() + 23 * (epoch + 1));
    std::sort(ids.begin(), ids.end());
    for (std::int32_t i = 0; i < 23; ++i) REQUIRE(ids[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("every token is a target once an epoch but the stream's first; with the mask but each document's first") {
  for (const std::uint64_t trial : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    const TempDir folder;
    std::vector<std::int64_t> lengths(2 + random_u64(trial, 100) % 30);
    for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = 1 + static_cast<std::int64_t>(random_u64(trial, i) % 12);
    const Documents documents = counting_documents(lengths);
    write_shard(folder / "x", documents, kVocab);
    const std::int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    const auto length = static_cast<std::int64_t>(1 + random_u64(trial, 101) % 17);
    const bool mask = trial % 2 == 0;
    Loader loader(data_config(length, mask, {{"x", folder / "x"}}), {}, 1, kVocab, static_cast<std::int64_t>(trial));
    constexpr std::int64_t kEpochs = 3;
    // Targets of the inputs [0, kEpochs * tokens) are the stream's tokens 1 .. kEpochs * tokens.
    std::vector<std::int32_t> targets;
    for (std::int64_t i = 0; i * length < kEpochs * tokens; ++i) {
      const HostBatch batch = loader.next(1);
      targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
    }
    targets.resize(static_cast<std::size_t>(kEpochs * tokens));
    std::vector<std::int64_t> times(static_cast<std::size_t>(tokens), 0);
    for (const std::int32_t target : targets) {
      if (target != kIgnore) ++times[static_cast<std::size_t>(target)];
    }
    if (mask) {
      for (const auto& document : documents) {
        for (const std::int32_t id : document) REQUIRE(times[static_cast<std::size_t>(id)] == (id == document[0] ? 0 : kEpochs));
      }
    } else {
      // One token more at the end, the first of epoch kEpochs, and one less at the start.
      CHECK(std::accumulate(times.begin(), times.end(), std::int64_t{0}) == kEpochs * tokens);
      CHECK(std::count(times.begin(), times.end(), kEpochs) >= tokens - 2);
    }
  }
}

TEST_CASE("the mask, against a direct reading of its definition") {
  const Corpus corpus;
  Loader masked = corpus.loader(), plain = corpus.loader(0, 1, false);
  const auto starts_document = [&](std::int32_t id) {
    for (const auto& [name, path] : corpus.sources) {
      const TokenSource source = TokenSource::open(path);
      for (std::int64_t i = 0; i < source.num_documents(); ++i) {
        std::int32_t first = 0;
        source.read(i, 0, 1, &first, kVocab);
        if (first == id) return true;
      }
    }
    return false;
  };
  for (int step = 0; step < 4; ++step) {
    const HostBatch a = masked.next(6), b = plain.next(6);
    REQUIRE(a.inputs == b.inputs);
    REQUIRE(a.source == b.source);
    std::vector<std::int32_t> boundaries, positions, targets;
    for (std::size_t i = 0; i < a.inputs.size(); ++i) {
      const bool begins = i % 16 == 0 || starts_document(a.inputs[i]);
      if (begins) boundaries.push_back(static_cast<std::int32_t>(i));
      positions.push_back(begins ? 0 : positions.back() + 1);
      targets.push_back(starts_document(b.targets[i]) ? kIgnore : b.targets[i]);
    }
    boundaries.push_back(static_cast<std::int32_t>(a.inputs.size()));
    CHECK(a.boundaries == boundaries);
    CHECK(a.positions == positions);
    CHECK(a.targets == targets);
    CHECK(b.boundaries == std::vector<std::int32_t>{0, 16, 32, 48, 64, 80, 96});
    CHECK(std::count(b.targets.begin(), b.targets.end(), kIgnore) == 0);
  }
}

TEST_CASE("micro-batches and ranks share one stream") {
  const Corpus corpus;
  constexpr std::int64_t kSteps = 9;
  Loader alone = corpus.loader();
  const Rows global = take(alone, kSteps * Corpus::kPerStep);
  Loader in_micro_batches = corpus.loader();
  CHECK(take(in_micro_batches, kSteps * Corpus::kPerStep, 4) == global);
  for (const int world : {2, 4}) {
    Rows together(global.size());
    std::vector<LoaderPosition> positions;
    const std::int64_t share = Corpus::kPerStep / world;
    for (int rank = 0; rank < world; ++rank) {
      Loader loader = corpus.loader(rank, world);
      const Rows rows = take(loader, kSteps * share, 3);
      for (std::int64_t i = 0; i < kSteps * share; ++i) {
        together[static_cast<std::size_t>(i / share * Corpus::kPerStep + rank * share + i % share)] = rows[static_cast<std::size_t>(i)];
      }
      positions.push_back(loader.position());
    }
    CHECK(together == global);
    for (const auto& position : positions) CHECK(position == alone.position());
  }
  CHECK_THROWS_AS(corpus.loader(0, 5), InputError);
}

TEST_CASE("a loader goes on from any position with the very next unseen sequence, across epochs, phases and numbers of ranks") {
  const Corpus corpus;
  constexpr std::int64_t kSequences = 11 * Corpus::kPerStep;
  Loader whole = corpus.loader();
  const Rows global = take(whole, kSequences);
  REQUIRE(whole.use()[2].epochs > 3);  // the smallest source went round several times
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    // The cuts around the phase switch, then random ones.
    const auto cut = static_cast<std::int64_t>(trial < 5 ? 5 * Corpus::kPerStep - 2 + trial : random_u64(77, trial) % kSequences);
    Loader before = corpus.loader();
    take(before, cut, 1 + static_cast<std::int64_t>(trial % 5));
    const LoaderPosition position = LoaderPosition::from_json(before.position().to_json());
    CHECK(position.sequence == cut);
    Loader after = corpus.loader();
    take(after, static_cast<std::int64_t>(trial % 3));  // a loader that was somewhere else
    after.seek(position);
    const std::int64_t count = std::min<std::int64_t>(30, kSequences - cut);
    CHECK(take(after, count) == Rows(global.begin() + cut, global.begin() + cut + count));
  }
  Loader before = corpus.loader(0, 2);
  take(before, 4 * Corpus::kPerStep / 2);
  Loader second_of_four = corpus.loader(1, 4);
  second_of_four.seek(before.position());
  const auto from = global.begin() + 4 * Corpus::kPerStep + 3;
  CHECK(take(second_of_four, 3) == Rows(from, from + 3));
}

TEST_CASE("inside an update one rank of several knows no position and takes none") {
  const Corpus corpus;
  Loader rank = corpus.loader(0, 2);
  rank.next(1);
  CHECK_THROWS_AS(rank.position(), std::logic_error);
  Loader alone = corpus.loader();
  alone.next(5);
  CHECK(contains(message_of<InputError>([&] { rank.seek(alone.position()); }), "loader position: in_step: 5"));
}

TEST_CASE("phases switch at their exact sequence") {
  const Corpus corpus;
  Loader loader = corpus.loader();
  std::vector<std::int32_t> sources;
  for (int i = 0; i < 7 * Corpus::kPerStep; ++i) sources.push_back(loader.next(1).source[0]);
  const auto first_cooldown = sources.begin() + 5 * Corpus::kPerStep;
  CHECK(std::count(sources.begin(), first_cooldown, 1) == 18);  // code: 0.3 of 60, none later
  CHECK(std::count(first_cooldown, sources.end(), 1) == 0);
  CHECK(std::vector<std::int32_t>(first_cooldown, first_cooldown + 4) == std::vector<std::int32_t>{2, 0, 2, 2});
  CHECK(loader.position().phase_step == 5);
}

TEST_CASE("a damaged token is named when its sequence comes, not before") {
  const TempDir folder;
  write_shard(folder / "x", {std::vector<std::int32_t>(50, 1)}, 10);
  std::string bin = read_file(folder / "x.bin");
  bin[2 * 33] = 11;
  write_file_durably(folder / "x.bin", bin);
  Loader loader(data_config(8, true, {{"x", folder / "x"}}), {}, 1, 10, 1);
  for (int i = 0; i < 4; ++i) CHECK_NOTHROW(loader.next(1));
  const LoaderPosition position = loader.position();
  for (int i = 0; i < 2; ++i) {  // a second call must not hang
    CHECK(contains(message_of<DamagedError>([&] { loader.next(1); }),
                   (folder / "x.bin").string() + ": byte 66: token id 11, the vocabulary has 10"));
  }
  CHECK(loader.position() == position);
  loader.seek(LoaderPosition{0, 0, 0, 0, {{"x", 0}}, {{"x", 1'000'000'000, 0}}});
  CHECK_NOTHROW(loader.next(4));
}

TEST_CASE("a source runs out where max_repeats says, and the whole run is checked before it begins") {
  const TempDir folder;
  write_shard(folder / "big", {std::vector<std::int32_t>(10'000, 1)}, kVocab);
  write_shard(folder / "small", {std::vector<std::int32_t>(100, 2)}, kVocab);
  DataConfig config = data_config(10, true, {{"big", folder / "big"}, {"small", folder / "small"}});
  config.sources[1].second.max_repeats = 2;
  const std::vector<PhaseConfig> phases{phase("a", 0, {{"big", 1}}), phase("b", 10, {{"big", 0.5}, {"small", 0.5}})};
  Loader loader(config, phases, 4, kVocab, 1);
  // 2 epochs are 20 sequences, at 2 an update from update 11 on: enough for updates 11 to 20.
  CHECK_NOTHROW(loader.check_supply(20));
  const std::string message = message_of<InputError>([&] { loader.check_supply(30); });
  CHECK(contains(message, "data.sources.small: runs out at step 21 of 30"));
  CHECK(contains(message, "its 100 tokens 4.00 times, max_repeats allows 2"));
  for (int i = 0; i < 20; ++i) loader.next(4);
  CHECK(loader.use()[1].tokens == 200);
  CHECK(loader.use()[1].epochs == Approx(2));
  CHECK(contains(message_of<InputError>([&] { loader.next(4); }), "data.sources.small: runs out at step 21"));
}

TEST_CASE("what was read ahead while others worked is handed out without waiting") {
  const Corpus corpus;
  Loader loader = corpus.loader();
  loader.next(1);
  int unwaited = 0;
  for (int round = 0; round < 40 && unwaited < 3; ++round) {  // more rounds only where the machine has no time for the thread
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    const double before = loader.seconds_waited();
    loader.next(40);
    unwaited += loader.seconds_waited() == before;
  }
  CHECK(unwaited == 3);
}

TEST_CASE("a loader that is abandoned, moved about or never used ends cleanly") {
  const Corpus corpus;
  { Loader unused = corpus.loader(); }
  for (int i = 0; i < 20; ++i) {
    Loader loader = corpus.loader();
    loader.next(1 + i % 3);
    if (i % 2 == 0) loader.seek(loader.position());
  }
  Loader loader = corpus.loader();
  loader.next(2);
  CHECK(loader.seconds_waited() >= 0);
}

TEST_CASE("what the config names is opened and checked at once, with its key") {
  const Corpus corpus;
  const auto open = [&](DataConfig config, std::vector<PhaseConfig> phases = {}) { Loader loader(config, phases, 4, kVocab, 1); };
  DataConfig config = data_config(16, true, corpus.sources);
  config.sources[1].second.path = (corpus.folder / "cod").string();
  CHECK(contains(message_of<InputError>([&] { open(config); }), "data.sources.code.path: "));
  config = data_config(16, true, corpus.sources);
  config.validation.sources.push_back({"held", {(corpus.folder / "none").string(), 0}});
  CHECK(contains(message_of<InputError>([&] { open(config); }), "data.validation.held.path: "));
  config = data_config(16, true, corpus.sources);
  CHECK(contains(message_of<InputError>([&] { open(config, {phase("p", 0, {{"wob", 1}})}); }), "phases.p.mixture: unknown source 'wob'"));
  CHECK(contains(message_of<InputError>([&] { open(config, {phase("p", 3, {{"web", 1}})}); }), "phases.p.from_step: found 3"));
  CHECK_THROWS_AS(open(data_config(16, true, {})), InputError);
  CHECK_THROWS_AS(open(data_config(0, true, corpus.sources)), InputError);
}

TEST_CASE("the tokenizer's ids must fit the model, and its hash the shards") {
  const TempDir folder;
  const std::string json =
      R"({"added_tokens": [{"id": 4, "content": "<|endoftext|>"}], "model": {"type": "BPE", "vocab": {"a": 0, "b": 3}, "merges": []}})";
  write_file_durably(folder / "tokenizer.json", json);
  const std::string hash = xxh3_hex(std::as_bytes(std::span(json)));
  for (const auto& [name, known] : {std::pair<std::string, std::string>{"same", hash}, {"unknown", ""}, {"other", "0123456789abcdef"}}) {
    ShardWriter writer(folder / name, {5, known});
    writer.add_document(std::vector<std::int32_t>{0, 1, 4});
    writer.finish();
  }
  const auto open = [&](const std::string& name, std::int64_t vocab_size) {
    DataConfig config = data_config(2, true, {{name, folder / name}});
    config.tokenizer = (folder / "tokenizer.json").string();
    Loader loader(config, {}, 1, vocab_size, 1);
  };
  CHECK_NOTHROW(open("same", 5));
  CHECK_NOTHROW(open("unknown", 8));
  CHECK(contains(message_of<InputError>([&] { open("same", 4); }), "has 5 ids, model.vocab_size is 4"));
  CHECK(contains(message_of<InputError>([&] { open("other", 5); }), "data.sources.other: "));
  // Where no tokenizer is given, a shard's manifest knows what its ids go up to.
  const auto untold = [&] { Loader(data_config(2, true, {{"same", folder / "same"}}), {}, 1, 4, 1); };
  CHECK(contains(message_of<InputError>(untold), "data.sources.same: " + (folder / "same").string() + " was made with a vocabulary of 5"));
  write_file_durably(folder / "tokenizer.json", "{\"model\": {}}");
  CHECK(contains(message_of<DamagedError>([&] { open("same", 5); }), "model: key 'vocab' is missing"));
}

TEST_CASE("sources agree on what stands before their texts and on the chat template; what they say is told") {
  const TempDir folder;
  const auto says = [&](const std::string& name, const std::string& hash, const std::vector<std::int64_t>& begin, const std::string& chat,
                        std::optional<std::int64_t> end = 0) {
    if (!std::filesystem::exists(folder / (name + ".bin"))) write_shard(folder / name, counting_documents({20}), kVocab);
    ShardManifest manifest = *read_shard_manifest(folder / (name + ".json"));
    manifest.tokenizer_hash = hash;
    manifest.begin_of_text = begin;
    manifest.chat_template = chat;
    manifest.end_of_text = end;
    write_file_durably(folder / (name + ".json"), shard_manifest_json(manifest));
  };
  const std::string hash = "0123456789abcdef";
  DataConfig config = data_config(4, true, {{"a", folder / "a"}, {"b", folder / "b"}});
  const auto open = [&] { Loader(config, {}, 1, kVocab, 1); };
  says("a", "", {}, "");
  says("b", "", {}, "");
  open();
  CHECK_FALSE(text_making(config).begin_of_text);  // ids that nobody says are of text

  says("a", hash, {}, "");
  says("b", hash, {}, "mine");
  open();
  CHECK(text_making(config).begin_of_text == std::vector<std::int64_t>{});
  CHECK(text_making(config).chat_template == "mine");
  CHECK(text_making(config).end_of_text == 0);
  says("b", hash, {}, "mine", 5);
  CHECK_FALSE(text_making(config).end_of_text);

  says("b", hash, {1}, "mine");
  CHECK(message_of<InputError>(open) == "data.sources.b: " + (folder / "b").string() +
                                            ": its texts begin with the ids [1], those of data.sources.a: " + (folder / "a").string() +
                                            " with []; tokenize one of them again, with another --bos");
  says("b", hash, {}, "mine");
  says("v", hash, {}, "other");
  config.validation.sources = {{"v", {(folder / "v").string(), 0}}};
  CHECK(contains(message_of<InputError>(open),
                 "data.validation.v: " + (folder / "v").string() + ": was rendered by another chat template than data.sources.b"));
  says("v", hash, {}, "mine");
  open();

  std::string text = read_file(folder / "v.json");
  text.replace(text.find("mine"), 4, "MINE");
  write_file_durably(folder / "v.json", text);
  CHECK(contains(message_of<DamagedError>(open), "v.json: chat_template: has xxh3 "));
}
