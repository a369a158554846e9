#include <cstring>
#include <limits>

#include "data/shard.h"
#include "support/catch.h"
#include "support/shard_writer.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

Documents read_all(const TokenSource& source, std::int64_t vocab_size) {
  Documents documents;
  for (std::int64_t i = 0; i < source.num_documents(); ++i) {
    documents.emplace_back(static_cast<std::size_t>(source.document_length(i)));
    source.read(i, 0, source.document_length(i), documents.back().data(), vocab_size);
  }
  return documents;
}

template <class Int>
std::string stored(const std::vector<std::int64_t>& tokens) {
  std::string bytes;
  for (const auto token : tokens) append(bytes, static_cast<Int>(token));
  return bytes;
}

}  // namespace

TEST_CASE("what the writer wrote is read back, in the narrow and the wide form") {
  const TempDir folder;
  const Documents documents{{1, 2, 3}, {}, {0}, {65534, 7}};
  write_shard(folder / "narrow", documents, 65535);
  write_shard(folder / "wide", documents, 65536);
  for (const auto& [name, type] : {std::pair{"narrow", TokenType::kU16}, {"wide", TokenType::kI32}}) {
    const TokenSource source = TokenSource::open(folder / name);
    CHECK(source.token_type() == type);
    CHECK(source.num_tokens() == 6);
    CHECK(read_all(source, 65535) == documents);
    REQUIRE(source.manifest());
    CHECK(source.manifest()->tokens == 6);
    CHECK(source.manifest()->documents == 4);
    CHECK(source.manifest()->bin.xxh3 == xxh3_hex(MappedFile(source.bin_path()).bytes()));
    CHECK(folder_entries(folder.path()).size() == 6);  // no temporary file stays
  }
}

TEST_CASE("the files on disk, byte by byte") {
  const TempDir folder;
  write_shard(folder / "x", {{1, 2, 3}, {258}}, 300);
  CHECK(read_file(folder / "x.bin") == std::string("\1\0\2\0\3\0\2\1", 8));
  RawIndex index;
  index.lengths = {3, 1};
  index.pointers = {0, 6};
  index.documents = {0, 1, 2};
  CHECK(read_file(folder / "x.idx") == index.bytes());
}

TEST_CASE("PREFIX, PREFIX.bin and PREFIX.idx name the same source; dots in a prefix are part of it") {
  const TempDir folder;
  write_shard(folder / "v1.5", {{4, 5}}, 10);
  for (const char* name : {"v1.5", "v1.5.bin", "v1.5.idx"}) CHECK(TokenSource::open(folder / name).num_tokens() == 2);
}

TEST_CASE("parts of a document are read, nothing outside of it") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents({5, 4}), 9);
  const TokenSource source = TokenSource::open(folder / "x");
  std::vector<std::int32_t> out(3, -7);
  source.read(1, 1, 2, out.data(), 9);
  CHECK(out == std::vector<std::int32_t>{6, 7, -7});
  source.read(1, 4, 0, out.data(), 9);
  for (const auto& [document, begin, count] :
       std::vector<std::array<std::int64_t, 3>>{{1, 3, 2}, {1, -1, 1}, {1, 0, -1}, {2, 0, 1}, {-1, 0, 1}}) {
    CHECK_THROWS_AS(source.read(document, begin, count, out.data(), 9), std::out_of_range);
  }
  CHECK_THROWS_AS(source.read(0, std::numeric_limits<std::int64_t>::max(), 2, out.data(), 9), std::out_of_range);
}

TEST_CASE("the document index groups sequences into documents") {
  const TempDir folder;
  RawIndex index;
  index.lengths = {2, 1, 3, 0, 1};
  index.pointers = {0, 4, 6, 12, 12};
  index.documents = {0, 2, 2, 5};  // the second document is empty
  write_file_durably(folder / "x.bin", stored<std::uint16_t>({1, 2, 3, 4, 5, 6, 7}));
  write_file_durably(folder / "x.idx", index.bytes());
  CHECK(read_all(TokenSource::open(folder / "x"), 8) == Documents{{1, 2, 3}, {}, {4, 5, 6, 7}});
}

TEST_CASE("every integer type that Megatron writes is read") {
  const TempDir folder;
  const std::vector<std::int64_t> tokens{5, 0, 127};
  const std::vector<std::pair<std::uint8_t, std::string>> forms{{1, stored<std::uint8_t>(tokens)}, {2, stored<std::int8_t>(tokens)},
                                                                {3, stored<std::int16_t>(tokens)}, {4, stored<std::int32_t>(tokens)},
                                                                {5, stored<std::int64_t>(tokens)}, {8, stored<std::uint16_t>(tokens)}};
  for (const auto& [code, bytes] : forms) {
    RawIndex index;
    index.code = code;
    index.lengths = {3};
    index.pointers = {0};
    index.documents = {0, 1};
    write_file_durably(folder / "x.bin", bytes);
    write_file_durably(folder / "x.idx", index.bytes());
    CHECK(read_all(TokenSource::open(folder / "x"), 128) == Documents{{5, 0, 127}});
  }
}

TEST_CASE("llm.c files and bare uint16 files are one document") {
  const TempDir folder;
  const auto llm_c = [&](std::int32_t magic, std::int32_t version, std::int32_t count, const std::string& tokens) {
    std::string bytes = stored<std::int32_t>({magic, version, count});
    bytes.resize(1024, '\0');
    write_file_durably(folder / "x.bin", bytes + tokens);
    return TokenSource::open(folder / "x.bin");
  };
  CHECK(read_all(llm_c(20240520, 1, 2, stored<std::uint16_t>({50256, 3})), 50257) == Documents{{50256, 3}});
  CHECK(read_all(llm_c(20240801, 7, 2, stored<std::uint32_t>({128000, 3})), 128001) == Documents{{128000, 3}});
  write_file_durably(folder / "y.bin", stored<std::uint16_t>({9, 65535}));
  CHECK(read_all(TokenSource::open(folder / "y"), 65536) == Documents{{9, 65535}});

  const std::string file = (folder / "x.bin").string();
  CHECK(contains(message_of<DamagedError>([&] { llm_c(20240520, 2, 1, "ab"); }), file + ": byte 4: version 2"));
  CHECK(contains(message_of<DamagedError>([&] { llm_c(20240520, 1, 3, "abcd"); }), file + ": byte 8: 3 tokens of uint16"));
  CHECK(contains(message_of<DamagedError>([&] { llm_c(20240801, 7, -1, ""); }), file + ": byte 8: -1 tokens"));
  // An id that no int32 holds is outside every vocabulary.
  CHECK(contains(message_of<DamagedError>([&] { read_all(llm_c(20240801, 7, 2, stored<std::uint32_t>({1, 4294967295})), 1 << 30); }),
                 file + ": byte 1028"));
}

TEST_CASE("the writer refuses ids outside the vocabulary and files that are there, and leaves nothing half done") {
  const TempDir folder;
  {
    ShardWriter writer(folder / "x", {10, ""});
    CHECK(contains(message_of<InputError>([&] { writer.add_document(std::vector<std::int32_t>{3, 10}); }),
                   "document 0: token id 10, the vocabulary has 10"));
    CHECK_THROWS_AS(writer.add_document(std::vector<std::int32_t>{-1}), InputError);
  }
  CHECK(folder_entries(folder.path()).empty());
  write_shard(folder / "x", {{1}}, 10);
  CHECK(contains(message_of<InputError>([&] { write_shard(folder / "x", {{2}}, 10); }), (folder / "x.bin").string() + ": exists already"));
  CHECK(read_all(TokenSource::open(folder / "x"), 10) == Documents{{1}});
  CHECK_THROWS_AS(ShardWriter(folder / "none" / "x", {10, ""}), InputError);
}

TEST_CASE("a manifest reads back what was written") {
  const TempDir folder;
  const ShardManifest manifest{
      7,  2, 100,    "uint16",         "a/tokenizer.json", "0123456789abcdef", 5, {14, "00000000000000aa"}, {58, "00000000000000bb"},
      {}, 0, {1, 2}, "{{ bos_token }}"};
  write_file_durably(folder / "x.json", shard_manifest_json(manifest));
  const auto read = read_shard_manifest(folder / "x.json");
  REQUIRE(read);
  CHECK(shard_manifest_json(*read) == shard_manifest_json(manifest));
  CHECK(read->end_of_text == 5);
  CHECK(read->begin_of_text == std::vector<std::int64_t>{1, 2});
  CHECK_FALSE(read_shard_manifest(folder / "y.json"));
}
