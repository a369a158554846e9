// A mask beside a shard: which tokens become targets, and what is refused.
#include <string>

#include "data/batch.h"
#include "data/loader.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

const std::string kMask{0, 0, 1, 1, 0, 0, 1, 1, 0, 1};

TempDir& masked_shard(TempDir& folder) {
  write_shard(folder / "x", counting_documents({6, 4}), 10);
  write_mask(folder / "x", kMask);
  return folder;
}

std::string refusal_of(const TempDir& folder) {
  return message_of<DamagedError>([&] { TokenSource::open(folder / "x"); });
}

}  // namespace

TEST_CASE("a token that the mask leaves out is an input and no target") {
  TempDir folder;
  const TokenSource source = TokenSource::open(masked_shard(folder) / "x");
  REQUIRE(source.has_mask());
  HostBatch batch;
  append_row(source, std::vector<DocumentSlice>{{0, 0, 6}, {1, 0, 4}}, {9, true, 10}, 0, batch);
  CHECK(batch.inputs == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8});
  // Token 6 is trained on, but it begins a document.
  CHECK(batch.targets == std::vector<std::int32_t>{-1, 2, 3, -1, -1, -1, 7, -1, 9});
  CHECK(batch.boundaries == std::vector<std::int32_t>{0, 6, 9});
}

TEST_CASE("a batch counts the inputs that are no padding, whatever is trained on") {
  TempDir folder;
  const TokenSource source = TokenSource::open(masked_shard(folder) / "x");
  HostBatch batch, both;
  append_row(source, std::vector<DocumentSlice>{{0, 0, 6}, {1, 0, 4}}, {9, true, 10}, 0, batch);
  CHECK(batch.real_tokens == 9);  // the tenth token is a target only
  append_row(source, std::vector<DocumentSlice>{{1, 0, 4}}, {9, true, 10}, 0, batch);
  CHECK(batch.real_tokens == 13);
  append_rows(batch, both);
  append_rows(batch, both);
  CHECK(both.real_tokens == 26);
}

TEST_CASE("without a mask every token is trained on") {
  TempDir folder;
  write_shard(folder / "x", counting_documents({6, 4}), 10);
  const TokenSource source = TokenSource::open(folder / "x");
  CHECK_FALSE(source.has_mask());
  std::vector<std::uint8_t> mask(4, 7);
  source.read_mask(1, 0, 4, mask.data());
  CHECK(mask == std::vector<std::uint8_t>{1, 1, 1, 1});
}

TEST_CASE("a run's targets follow the mask, whatever the cut") {
  TempDir folder;
  masked_shard(folder);
  for (std::int64_t length = 1; length <= 12; ++length) {
    Loader loader(data_config(length, true, {{"x", folder / "x"}}), {}, 1, 10, 1);
    std::vector<std::int64_t> seen(10, 0);
    for (std::int64_t i = 0; i < 10; ++i) {  // 10 sequences: `length` epochs
      const HostBatch row = loader.next(1);
      for (const std::int32_t target : row.targets) {
        if (target < 0) continue;
        INFO("length " << length << " token " << target);
        CHECK(kMask[static_cast<std::size_t>(target)] == 1);
        ++seen[static_cast<std::size_t>(target)];
      }
    }
    for (const std::size_t token : {2u, 3u, 7u, 9u}) CHECK(seen[token] == length);
  }
}

TEST_CASE("a mask of another size, with other values, or unknown to the manifest is damage") {
  TempDir folder;
  masked_shard(folder);
  write_file_durably(folder / "x.mask", kMask.substr(1));
  CHECK(contains(refusal_of(folder), "x.mask: byte 9: a mask of 9 bytes for 10 tokens"));

  write_file_durably(folder / "x.mask", std::string{0, 0, 1, 1, 0, 0, 1, 2, 0, 1});
  const TokenSource source = TokenSource::open(folder / "x");
  std::vector<std::uint8_t> mask(4);
  CHECK(
      contains(message_of<DamagedError>([&] { source.read_mask(1, 0, 4, mask.data()); }), "x.mask: byte 7: found 2, a mask holds 0 and 1"));

  std::filesystem::remove(folder / "x.mask");
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "x"); }), "x.mask: no such file, but the manifest describes it"));

  TempDir other;
  write_shard(other / "x", counting_documents({6, 4}), 10);
  write_file_durably(other / "x.mask", kMask);
  CHECK(contains(refusal_of(other), "x.mask: the manifest knows nothing of a mask"));
}

TEST_CASE("a mask that trains on nothing is refused at the start") {
  TempDir folder;
  write_shard(folder / "x", counting_documents({6, 4}), 10);
  write_mask(folder / "x", std::string(10, '\0'));
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "x"); }), "x.mask: trains on no token"));
}
