// The rows of a source. concat: cut out of a stream that holds every token once an epoch. best_fit: every document once an epoch, whole, in
// few rows, in an order that position and seed alone decide.
#include "data/rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <numeric>
#include <set>

#include "core/counter_rng.h"
#include "data/loader.h"
#include "data/validation_reader.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

TEST_CASE("a stream holds every token once an epoch, documents whole and in a new order each epoch") {
  const TempDir folder;
  for (const int trial : {0, 1, 2, 3, 4, 5}) {
    const auto key = static_cast<std::uint64_t>(trial);
    std::vector<std::int64_t> lengths(1 + random_u64(key, 0) % 70);
    for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<std::int64_t>(random_u64(key, i + 1) % 9);
    lengths[0] += 1;
    const std::string name = "x" + std::to_string(trial);
    const Documents documents = counting_documents(lengths);
    write_shard(folder / name, documents, 1 << 20);
    const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / name));
    const std::int64_t tokens = source->num_tokens();
    TokenStream stream(source, 5, name);
    std::set<std::vector<std::int32_t>> orders;
    constexpr std::int64_t kEpochs = 3;
    for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      std::vector<std::int32_t> ids;
      const std::int64_t odd = 1 + trial;  // pieces that do not fit the documents
      for (std::int64_t at = 0; at < tokens; at += odd) {
        for (const DocumentSlice& slice : stream.slices(epoch * tokens + at, std::min(odd, tokens - at))) {
          const auto& document = documents[static_cast<std::size_t>(slice.document)];
          REQUIRE(slice.count > 0);
          for (std::int64_t i = 0; i < slice.count; ++i) ids.push_back(document.at(static_cast<std::size_t>(slice.begin + i)));
        }
      }
      orders.insert(ids);
      std::vector<std::int32_t> first_of;  // documents stay whole: ids go up by one but where a document begins
      for (std::size_t i = 1; i < ids.size(); ++i) {
        const bool begins = std::any_of(documents.begin(), documents.end(), [&](const auto& d) { return !d.empty() && d[0] == ids[i]; });
        REQUIRE((begins || ids[i] == ids[i - 1] + 1));
      }
      std::sort(ids.begin(), ids.end());
      for (std::int64_t i = 0; i < tokens; ++i) REQUIRE(ids[static_cast<std::size_t>(i)] == i);
    }
    if (lengths.size() > 10) CHECK(orders.size() == kEpochs);
  }
}

TEST_CASE("the order depends on seed and name, and slices may span epochs") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents(std::vector<std::int64_t>(40, 1)), 40);
  const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / "x"));
  const auto order = [&](std::uint64_t seed, const std::string& name, std::int64_t offset, std::int64_t count) {
    std::vector<std::int64_t> documents;
    for (const DocumentSlice& slice : TokenStream(source, seed, name).slices(offset, count)) documents.push_back(slice.document);
    return documents;
  };
  CHECK(order(1, "a", 0, 40) == order(1, "a", 0, 40));
  CHECK(order(1, "a", 0, 40) != order(2, "a", 0, 40));
  CHECK(order(1, "a", 0, 40) != order(1, "b", 0, 40));
  const auto both = order(1, "a", 0, 80);
  CHECK(order(1, "a", 30, 25) == std::vector<std::int64_t>(both.begin() + 30, both.begin() + 55));
}

TEST_CASE("slices asked for in any order are those of a stream read from its start") {
  const TempDir folder;
  std::vector<std::int64_t> lengths;
  for (std::uint64_t i = 0; i < 90; ++i) lengths.push_back(static_cast<std::int64_t>(random_u64(8, i) % 7));
  write_shard(folder / "x", counting_documents(lengths), 1 << 20);
  const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / "x"));
  const std::int64_t tokens = 3 * source->num_tokens();
  // Token by token: (document, place in it).
  std::vector<std::pair<std::int64_t, std::int64_t>> expected;
  TokenStream forward(source, 5, "x"), anyhow(source, 5, "x");
  const auto put = [](const std::vector<DocumentSlice>& slices, auto& out) {
    for (const DocumentSlice& slice : slices) {
      for (std::int64_t i = 0; i < slice.count; ++i) out.emplace_back(slice.document, slice.begin + i);
    }
  };
  for (std::int64_t at = 0; at < tokens; ++at) put(forward.slices(at, 1), expected);
  for (std::uint64_t trial = 0; trial < 300; ++trial) {
    const auto at = static_cast<std::int64_t>(random_u64(9, 2 * trial) % static_cast<std::uint64_t>(tokens));
    const std::int64_t count = std::min<std::int64_t>(tokens - at, 1 + static_cast<std::int64_t>(random_u64(9, 2 * trial + 1) % 60));
    std::vector<std::pair<std::int64_t, std::int64_t>> found;
    put(anyhow.slices(at, count), found);
    REQUIRE(found == std::vector(expected.begin() + at, expected.begin() + at + count));
  }
}

namespace {

std::vector<std::int64_t> random_lengths(std::uint64_t seed, std::size_t count, std::int64_t longest) {
  std::vector<std::int64_t> lengths(count);
  for (std::size_t i = 0; i < count; ++i)
    lengths[i] = static_cast<std::int64_t>(random_u64(seed, i) % static_cast<std::uint64_t>(longest + 1));
  return lengths;
}

PackedDocuments pack(const std::vector<std::int64_t>& lengths, std::int64_t capacity, const std::function<std::int64_t(std::int64_t)>& at) {
  return best_fit_decreasing(
      static_cast<std::int64_t>(lengths.size()), capacity, [&](std::int64_t d) { return lengths[static_cast<std::size_t>(d)]; }, at);
}

// The definition, in quadratic time: the longest first, each into the fullest row that still takes it. How full the rows get; which of
// several equally full rows takes a document is nobody's business.
std::multiset<std::int64_t> packed_slowly(std::vector<std::int64_t> lengths, std::int64_t capacity) {
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  std::vector<std::int64_t> rows;
  for (const std::int64_t length : lengths) {
    const std::int64_t tokens = std::min(length, capacity);
    if (tokens == 0) continue;
    auto best = rows.end();
    for (auto row = rows.begin(); row != rows.end(); ++row) {
      if (*row + tokens <= capacity && (best == rows.end() || *row > *best)) best = row;
    }
    if (best == rows.end()) best = rows.insert(rows.end(), 0);
    *best += tokens;
  }
  return {rows.begin(), rows.end()};
}

std::vector<std::vector<std::int64_t>> lengths_by_row(const PackedDocuments& rows, const std::vector<std::int64_t>& lengths,
                                                      std::int64_t capacity) {
  std::vector<std::vector<std::int64_t>> out;
  for (const auto& row : rows) {
    out.emplace_back();
    for (const std::int64_t d : row) out.back().push_back(std::min(lengths[static_cast<std::size_t>(d)], capacity));
  }
  return out;
}

DataConfig packed_config(const TempDir& folder, std::int64_t length) {
  DataConfig config = data_config(length, true, {{"x", folder / "x"}});
  config.packing = Packing::kBestFit;
  return config;
}

// What attends to itself alone. Ids count up over the shard, so the tokens tell the document.
std::vector<std::vector<std::int32_t>> documents_of(const HostBatch& row) {
  std::vector<std::vector<std::int32_t>> documents;
  for (std::size_t i = 1; i < row.boundaries.size(); ++i) {
    documents.emplace_back(row.inputs.begin() + row.boundaries[i - 1], row.inputs.begin() + row.boundaries[i]);
  }
  return documents;
}

}  // namespace

TEST_CASE("rows are those of the definition, hold every document once, and their lengths do not depend on the order") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const std::int64_t capacity = 1 + static_cast<std::int64_t>(seed);
    const auto lengths = random_lengths(seed, 60, 24);
    const Permutation order(seed, 60);
    const PackedDocuments rows = pack(lengths, capacity, order);
    std::multiset<std::int64_t> fills;
    std::vector<std::int64_t> documents;
    for (const auto& row : rows) {
      std::int64_t fill = 0;
      for (const std::int64_t d : row) fill += std::min(lengths[static_cast<std::size_t>(d)], capacity);
      fills.insert(fill);
      CHECK(*fills.rbegin() <= capacity);
      documents.insert(documents.end(), row.begin(), row.end());
    }
    INFO("seed " << seed);
    CHECK(fills == packed_slowly(lengths, capacity));
    CHECK(lengths_by_row(rows, lengths, capacity) ==
          lengths_by_row(pack(lengths, capacity, [](std::int64_t p) { return p; }), lengths, capacity));
    std::sort(documents.begin(), documents.end());
    std::vector<std::int64_t> expected;
    for (std::int64_t d = 0; d < 60; ++d) {
      if (lengths[static_cast<std::size_t>(d)] > 0) expected.push_back(d);
    }
    CHECK(documents == expected);
  }
}

TEST_CASE("an epoch holds each document once and whole, alone in its attention; the next epoch packs others together") {
  const TempDir folder;
  const std::vector<std::int64_t> lengths{5, 3, 0, 4, 2, 5, 1, 3, 4, 2, 2, 5};
  const Documents documents = counting_documents(lengths);
  write_shard(folder / "x", documents, 36);
  Loader loader(packed_config(folder, 8), {}, 1, 36, 1);
  const auto report = loader.packing();
  REQUIRE(report.size() == 1);
  CHECK(report[0].rows == 5);
  CHECK(report[0].tokens == 36);
  CHECK(report[0].cut_documents == 0);
  std::vector<std::vector<std::vector<std::int32_t>>> epochs(4);
  for (auto& epoch : epochs) {
    std::multiset<std::vector<std::int32_t>> seen;
    for (std::int64_t i = 0; i < report[0].rows; ++i) {
      const HostBatch row = loader.next(1);
      for (std::size_t p = 0; p < row.positions.size(); ++p)
        CHECK((row.positions[p] == 0) == std::count(row.boundaries.begin(), row.boundaries.end(), static_cast<std::int32_t>(p)));
      std::int64_t targets = 0, tokens = 0;
      for (const auto& document : documents_of(row)) {
        const bool padding = std::all_of(document.begin(), document.end(), [](std::int32_t id) { return id == 0; });
        if (padding) continue;
        seen.insert(document);
        tokens += static_cast<std::int64_t>(document.size());
        targets += static_cast<std::int64_t>(document.size()) - 1;
      }
      CHECK(std::count_if(row.targets.begin(), row.targets.end(), [](std::int32_t t) { return t >= 0; }) == targets);
      epoch.push_back(row.inputs);
    }
    std::multiset<std::vector<std::int32_t>> expected;
    for (const auto& document : documents) {
      if (!document.empty()) expected.insert(document);
    }
    CHECK(seen == expected);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  CHECK(loader.use()[0].epochs == 4);
}

TEST_CASE("what is longer than a row is cut there and counted") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({5, 12, 3, 20}), 40);
  std::string mask(40, '\0');
  for (std::size_t i = 10; i < 18; ++i) mask[i] = 1;  // of document 1, whose tokens are 5 to 16, and document 2's first
  write_mask(folder / "x", mask);
  const Loader loader(packed_config(folder, 8), {}, 1, 40, 1);
  const PackingReport report = loader.packing().at(0);
  CHECK(report.cut_documents == 2);
  CHECK(report.cut_tokens == 4 + 12);
  CHECK(report.cut_trained == 4);
  CHECK(report.cut == std::vector<std::int64_t>{1, 3});
  CHECK(report.tokens == 24);
  CHECK(report.rows == 3);
}

TEST_CASE("from any position, the next packed sequence is the very next one; ranks see the same stream") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents(random_lengths(3, 40, 9)), 400);
  const DataConfig config = packed_config(folder, 10);
  Loader loader(config, {}, 2, 400, 7);
  std::vector<HostBatch> rows;
  std::vector<LoaderPosition> positions;
  for (int i = 0; i < 120; ++i) {
    positions.push_back(loader.position());
    rows.push_back(loader.next(1));
  }
  for (std::size_t i = 0; i < rows.size(); i += 7) {
    Loader other(config, {}, 2, 400, 7);
    other.seek(LoaderPosition::from_json(positions[i].to_json()));
    CHECK(other.next(1).inputs == rows[i].inputs);
  }
  Loader second(config, {}, 2, 400, 7, 1, 2);
  for (std::size_t i = 1; i < rows.size(); i += 2) CHECK(second.next(1).inputs == rows[i].inputs);
}

TEST_CASE("packed validation reads each document once, the same every time") {
  const TempDir folder;
  const Documents documents = counting_documents({5, 3, 4, 2, 7});
  write_shard(folder / "x", documents, 21);
  const SourceConfig source{(folder / "x").string(), 0};
  ValidationReader reader(source, 8, true, 21, 0, true);
  std::int64_t targets = 0;
  const auto batch = reader.next(100);
  REQUIRE(batch);
  CHECK(batch->sequences == reader.num_sequences());
  for (const std::int32_t target : batch->targets) targets += target >= 0;
  CHECK(targets == 21 - 5);
  CHECK_FALSE(reader.next(1));
  CHECK(ValidationReader(source, 8, true, 21, 0, true).next(100)->inputs == batch->inputs);
}
