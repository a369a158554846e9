// Every damage is a DamagedError that names the file and the place.
#include <functional>
#include <limits>

#include "data/shard.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

// Two documents: sequences 0 and 1, sequence 2. Lengths stand at 34, 38, 42; pointers at 46, 54, 62; document entries at 70, 78, 86.
struct RawShard {
  RawIndex index{{"MMIDIDX\0\0", 9}, 1, 8, {3, 2, 4}, {0, 6, 10}, {0, 2, 3}};
  std::string bin = std::string("\1\0\2\0\3\0\4\0\5\0\6\0\7\0\10\0\11\0", 18);
  std::string index_bytes;  // in place of `index` where not empty
};

std::string set_u64(std::string bytes, std::size_t offset, std::uint64_t value) {
  bytes.replace(offset, 8, reinterpret_cast<const char*>(&value), 8);
  return bytes;
}

struct Damage {
  std::string what;
  std::function<void(RawShard&)> apply;
  std::string file, expected;
};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all{
      {"empty index", [](RawShard& s) { s.index_bytes = " "; }, "x.idx", "byte 1: truncated: the header takes 34 bytes"},
      {"truncated header", [](RawShard& s) { s.index_bytes = s.index.bytes().substr(0, 33); }, "x.idx", "byte 33: truncated"},
      {"magic", [](RawShard& s) { s.index.magic[0] = 'X'; }, "x.idx", "byte 0: does not begin with MMIDIDX"},
      {"magic without its zeros", [](RawShard& s) { s.index.magic[8] = '1'; }, "x.idx", "byte 0: does not begin with MMIDIDX"},
      {"version", [](RawShard& s) { s.index.version = 2; }, "x.idx", "byte 9: version 2"},
      {"type 0", [](RawShard& s) { s.index.code = 0; }, "x.idx", "byte 17: type code 0"},
      {"type float", [](RawShard& s) { s.index.code = 6; }, "x.idx", "byte 17: type code 6"},
      {"sequence count bomb", [](RawShard& s) { s.index_bytes = set_u64(s.index.bytes(), 18, ~0ull); }, "x.idx",
       "byte 18: 18446744073709551615 sequences"},
      {"count whose bytes overflow", [](RawShard& s) { s.index_bytes = set_u64(s.index.bytes(), 18, 0x1555555555555556ull); }, "x.idx",
       "byte 18: "},
      {"document count bomb", [](RawShard& s) { s.index_bytes = set_u64(s.index.bytes(), 26, ~0ull); }, "x.idx",
       "byte 26: 18446744073709551615 document entries"},
      {"no document entry", [](RawShard& s) { s.index_bytes = set_u64(s.index.bytes(), 26, 0); }, "x.idx", "byte 26: 0 document entries"},
      {"truncated entries",
       [](RawShard& s) {
         s.index_bytes = s.index.bytes();
         s.index_bytes.pop_back();
       },
       "x.idx", "byte 26: 3 document entries"},
      {"trailing bytes", [](RawShard& s) { s.index_bytes = s.index.bytes() + "ab"; }, "x.idx",
       "byte 94: 2 bytes after the last document entry"},
      {"negative length", [](RawShard& s) { s.index.lengths[1] = -2; }, "x.idx", "byte 38: sequence 1 has length -2"},
      {"length beyond the bin", [](RawShard& s) { s.index.lengths[2] = std::numeric_limits<std::int32_t>::max(); }, "x.idx",
       "byte 42: sequence 2 has 2147483647 tokens and ends beyond"},
      {"hole between sequences", [](RawShard& s) { s.index.pointers[1] = 8; }, "x.idx",
       "byte 54: sequence 1 begins at byte 8 of the .bin, the one before it ends at 6"},
      {"overlapping sequences", [](RawShard& s) { s.index.pointers[2] = 6; }, "x.idx", "byte 62: sequence 2 begins at byte 6"},
      {"negative pointer", [](RawShard& s) { s.index.pointers[0] = -2; }, "x.idx", "byte 46: sequence 0 begins at byte -2"},
      {"pointer far away", [](RawShard& s) { s.index.pointers[2] = std::numeric_limits<std::int64_t>::max(); }, "x.idx",
       "byte 62: sequence 2"},
      {"bin truncated", [](RawShard& s) { s.bin.resize(16); }, "x.idx",
       "byte 42: sequence 2 has 4 tokens and ends beyond the .bin of 16 bytes"},
      {"bin too long", [](RawShard& s) { s.bin += "ab"; }, "x.idx", "byte 18: the 3 sequences take 18 bytes, the .bin has 20"},
      {"bin of an odd size", [](RawShard& s) { s.bin += "a"; }, "x.idx", "byte 18: the 3 sequences take 18 bytes, the .bin has 19"},
      {"wider type than the bin has", [](RawShard& s) { s.index.code = 4; }, "x.idx", "byte 54: sequence 1 begins at byte 6"},
      {"documents begin late", [](RawShard& s) { s.index.documents[0] = 1; }, "x.idx", "byte 70: the first document begins at sequence 1"},
      {"documents go back", [](RawShard& s) { s.index.documents = {0, 3, 2, 3}; }, "x.idx",
       "byte 86: document entry 2 is 2, allowed: 3 to 3"},
      {"document beyond the sequences", [](RawShard& s) { s.index.documents[1] = 4; }, "x.idx",
       "byte 78: document entry 1 is 4, allowed: 0 to 3"},
      {"negative document", [](RawShard& s) { s.index.documents[1] = -1; }, "x.idx", "byte 78: document entry 1 is -1"},
      {"documents end early", [](RawShard& s) { s.index.documents[2] = 2; }, "x.idx",
       "byte 86: the last document ends at sequence 2, there are 3"},
      {"token outside the vocabulary", [](RawShard& s) { s.bin[12] = 100; }, "x.bin", "byte 12: token id 100, the vocabulary has 10"},
  };
  return all;
}

void read_in_full(const std::filesystem::path& path) {
  const TokenSource source = TokenSource::open(path);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.num_tokens()));
  for (std::int64_t i = 0; i < source.num_documents(); ++i) source.read(i, 0, source.document_length(i), tokens.data(), 10);
}

std::string manifest_damage(const TempDir& folder, const std::string& from, const std::string& to) {
  static int number = 0;
  const std::string name = "m" + std::to_string(number++);
  write_shard(folder / name, {{1, 2, 3}, {4}}, 10);
  std::string text = read_file(folder / (name + ".json"));
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  write_file_durably(folder / (name + ".json"), text.replace(at, from.size(), to));
  const std::string message = message_of<DamagedError>([&] { TokenSource::open(folder / name); });
  CHECK(contains(message, (folder / (name + ".json")).string() + ": "));
  return message;
}

}  // namespace

TEST_CASE("the shard that the damages start from is good") {
  const TempDir folder;
  const RawShard shard;
  write_file_durably(folder / "x.bin", shard.bin);
  write_file_durably(folder / "x.idx", shard.index.bytes());
  CHECK_NOTHROW(read_in_full(folder / "x"));
}

TEST_CASE("a damaged shard is refused with file and offset") {
  for (const Damage& damage : damages()) {
    const TempDir folder;
    RawShard shard;
    damage.apply(shard);
    write_file_durably(folder / "x.bin", shard.bin);
    write_file_durably(folder / "x.idx", shard.index_bytes.empty() ? shard.index.bytes() : shard.index_bytes);
    INFO(damage.what);
    const std::string message = message_of<DamagedError>([&] { read_in_full(folder / "x"); });
    INFO(message);
    CHECK(contains(message, (folder / damage.file).string() + ": " + damage.expected));
  }
}

TEST_CASE("a manifest that disagrees with its shard is refused with file and key") {
  const TempDir folder;
  CHECK(contains(manifest_damage(folder, "\"tokens\": 4", "\"tokens\": 5"), "tokens: says 5"));
  CHECK(contains(manifest_damage(folder, "\"documents\": 2", "\"documents\": 3"), "documents: says 3"));
  CHECK(contains(manifest_damage(folder, "uint16", "int32"), "dtype: says int32"));
  CHECK(contains(manifest_damage(folder, "\"bytes\": 8", "\"bytes\": 9"), "files.bin.bytes: says 9"));
  CHECK(contains(manifest_damage(folder, "\"bytes\": 82", "\"bytes\": 0"), "files.idx.bytes: says 0"));
  CHECK(contains(manifest_damage(folder, "\"tokens\": 4", "\"tokens\": -4"), "tokens: found -4"));
  CHECK(contains(manifest_damage(folder, "\"tokens\": 4", "\"tokens\": \"4\""), "tokens: found string"));
  CHECK(contains(manifest_damage(folder, "\"tokens\": 4", "\"tokens\": 4, \"tokens\": 4"), "duplicate key 'tokens'"));
  CHECK(contains(manifest_damage(folder, "\"documents\": 2,", ""), "key 'documents' is missing"));
  CHECK(contains(manifest_damage(folder, "\"xxh3\": \"", "\"xxh3\": \"x"), "files.bin.xxh3: expected 16 hex digits"));
  CHECK(contains(manifest_damage(folder, "{", "["), "bad JSON at byte"));
}

TEST_CASE("what is not there or holds nothing is the user's to correct") {
  const TempDir folder;
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "x"); }), (folder / "x.bin").string() + ": no such file"));
  write_shard(folder / "lost", {{1, 2}}, 10);
  std::filesystem::remove(folder / "lost.idx");
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "lost"); }),
                 (folder / "lost.idx").string() + ": no such file, but"));
  write_shard(folder / "other", {{1, 2}}, 10);
  std::filesystem::remove(folder / "other.bin");
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "other"); }), "of which only the .idx is there"));
  write_shard(folder / "none", {}, 10);
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "none"); }), "holds no tokens"));
  write_file_durably(folder / "odd.bin", "abc");
  CHECK(contains(message_of<DamagedError>([&] { TokenSource::open(folder / "odd"); }),
                 (folder / "odd.bin").string() + ": byte 3: not a whole number of tokens"));
  write_shard(folder / "future", {{1}}, 10);
  write_file_durably(folder / "future.json", "{\"format_version\": 9}");
  CHECK(contains(message_of<InputError>([&] { TokenSource::open(folder / "future"); }),
                 "format_version: found 9, this program reads up to 3"));
}
