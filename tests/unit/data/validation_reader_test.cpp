#include <algorithm>

#include "data/validation_reader.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

HostBatch read_all(ValidationReader reader, std::int64_t at_once) {
  HostBatch all;
  while (const auto batch = reader.next(at_once)) append_rows(*batch, all);
  return all;
}

}  // namespace

TEST_CASE("validation reads a source once in document order and pads its end") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({5, 3, 0, 4}), 12);
  const SourceConfig source{(folder / "x").string(), 0};
  const HostBatch masked = read_all(ValidationReader(source, 5, true, 12, 0), 2);
  CHECK(masked.sequences == 3);
  CHECK(masked.inputs == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0});
  CHECK(masked.targets == std::vector<std::int32_t>{1, 2, 3, 4, -1, 6, 7, -1, 9, 10, 11, -1, -1, -1, -1});
  CHECK(masked.positions == std::vector<std::int32_t>{0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 1, 0, 1, 2});
  CHECK(masked.boundaries == std::vector<std::int32_t>{0, 5, 8, 10, 12, 15});
  const HostBatch plain = read_all(ValidationReader(source, 5, false, 12, 0), 100);
  CHECK(plain.targets == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1});
  CHECK(plain.boundaries == std::vector<std::int32_t>{0, 5, 10, 15});

  const HostBatch last = rows_of(masked, 1, 3);
  CHECK(last.sequences == 2);
  CHECK(last.boundaries == std::vector<std::int32_t>{0, 3, 5, 7, 10});
  HostBatch joined = rows_of(masked, 0, 1);
  append_rows(last, joined);
  CHECK((joined.inputs == masked.inputs && joined.targets == masked.targets && joined.positions == masked.positions));
  CHECK((joined.boundaries == masked.boundaries && joined.source == masked.source));
}

TEST_CASE("every token but the first is a target once, whatever the length and the batch") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({7, 1, 12, 2, 9}), 31);
  for (std::int64_t length = 1; length < 40; ++length) {
    const HostBatch all = read_all(ValidationReader({(folder / "x").string(), 0}, length, false, 31, 0), 1 + length % 4);
    std::vector<std::int32_t> targets;
    std::copy_if(all.targets.begin(), all.targets.end(), std::back_inserter(targets),
                 [](std::int32_t target) { return target != kIgnore; });
    REQUIRE(targets.size() == 30);
    for (std::int32_t i = 0; i < 30; ++i) REQUIRE(targets[static_cast<std::size_t>(i)] == i + 1);
    CHECK(all.inputs.size() - 30 < static_cast<std::size_t>(length));
  }
}

TEST_CASE("the budget is in tokens and holds whole sequences, at least one") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({100}), 100);
  const auto sequences = [&](double tokens) {
    return ValidationReader({(folder / "x").string(), 0}, 10, true, 100, tokens).num_sequences();
  };
  CHECK(sequences(0) == 10);
  CHECK(sequences(1e12) == 10);
  CHECK(sequences(39) == 3);
  CHECK(sequences(3) == 1);
}

TEST_CASE("a source without a target, or with a token outside the vocabulary, is refused") {
  const TempDir folder;
  write_shard(folder / "one", {{1}}, 10);
  CHECK_THROWS_AS(ValidationReader({(folder / "one").string(), 0}, 4, true, 10, 0), InputError);
  write_shard(folder / "high", {{1, 2, 9}}, 10);
  ValidationReader reader({(folder / "high").string(), 0}, 2, true, 9, 0);
  CHECK(contains(message_of<DamagedError>([&] { reader.next(1); }), (folder / "high.bin").string() + ": byte 4: token id 9"));
}
