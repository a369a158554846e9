#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;

namespace {

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(length >> (8 * i) & 0xFF);
  return out + rest;
}

std::string file_of(const std::string& header, std::size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, 'x'));
}

std::string tensor(const std::string& shape, const std::string& offsets, const std::string& dtype = "\"F32\"") {
  return R"({"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

struct DamagedFile {
  std::string what, bytes, expected;
};

std::string deep(int depth) {
  return std::string("{\"a\":") + std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']') +
         "}";
}

const std::vector<DamagedFile>& damaged_files() {
  static const std::vector<DamagedFile> all{
      {"empty file", "", "truncated: 0 bytes"},
      {"truncated length", std::string(7, '\1'), "truncated: 7 bytes"},
      {"truncated header", with_length(40, "{\"a\":"), "byte 0: header length 40, but only 5 bytes follow"},
      {"header length bomb", with_length(1ull << 62, "{}"), "byte 0: header length 4611686018427387904, at most 100000000"},
      {"header length bomb, all bits", with_length(~0ull, "{}"), "byte 0: header length 18446744073709551615"},
      {"header length just over the limit", with_length(100'000'001, "{}"), "byte 0: header length 100000001, at most"},
      {"header without content", with_length(0, ""), "byte 8: the header does not begin with '{'"},
      {"header begins with a space", file_of(" {}", 0), "byte 8: the header does not begin with '{'"},
      {"not JSON", file_of("{tensor}", 0), "header: bad JSON at byte 3"},
      {"not UTF-8", file_of("{\"\xff\":1}", 0), "header: bad JSON at byte 3"},
      {"depth bomb", file_of(deep(1'000'000), 0), "header: bad JSON at byte 69: nested deeper than 64"},
      {"duplicate name", file_of("{\"a\":" + tensor("[1]", "[0,4]") + ",\"a\":" + tensor("[1]", "[4,8]") + "}", 8), "duplicate key 'a'"},
      {"duplicate key in a tensor", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
       "duplicate key 'dtype'"},
      {"unknown dtype", file_of("{\"a.b\":" + tensor("[1]", "[0,4]", "\"F33\"") + "}", 4), "header: a.b.dtype: unknown dtype 'F33'"},
      {"dtype is a number", file_of("{\"a\":" + tensor("[1]", "[0,4]", "4") + "}", 4), "header: a.dtype: found number, expected a string"},
      {"negative shape", file_of("{\"a\":" + tensor("[-1]", "[0,4]") + "}", 4), "header: a.shape[0]: found -1"},
      {"fractional shape", file_of("{\"a\":" + tensor("[1.0]", "[0,4]") + "}", 4), "header: a.shape[0]: found number, expected an integer"},
      {"shape overflows", file_of("{\"a\":" + tensor("[4294967296,4294967296]", "[0,0]") + "}", 0),
       "header: a.shape: number of bytes overflows"},
      {"bytes overflow", file_of("{\"a\":" + tensor("[4611686018427387904]", "[0,0]") + "}", 0),
       "header: a.shape: number of bytes overflows"},
      {"overflow behind a zero", file_of("{\"a\":" + tensor("[4294967296,4294967296,0]", "[0,0]") + "}", 0),
       "header: a.shape: number of bytes overflows"},
      {"size no integer holds", file_of("{\"a\":" + tensor("[18446744073709551616]", "[0,4]") + "}", 4), "integer out of range"},
      {"size beyond int64", file_of("{\"a\":" + tensor("[9223372036854775808]", "[0,4]") + "}", 4),
       "header: a.shape[0]: found 9223372036854775808"},
      {"offsets reversed", file_of("{\"a\":" + tensor("[1]", "[4,0]") + "}", 4), "header: a.data_offsets: ends at 0 before it begins at 4"},
      {"offsets negative", file_of("{\"a\":" + tensor("[1]", "[-4,0]") + "}", 4), "header: a.data_offsets[0]: found -4"},
      {"three offsets", file_of("{\"a\":" + tensor("[1]", "[0,4,8]") + "}", 4), "header: a.data_offsets: found 3 numbers"},
      {"extent and shape disagree", file_of("{\"a\":" + tensor("[2]", "[0,4]") + "}", 4),
       "header: a.data_offsets: span 4 bytes, but shape [2] of F32 takes 8"},
      {"truncated data", file_of("{\"a\":" + tensor("[2]", "[0,8]") + "}", 5), "truncated: tensors take 8 bytes of data, the file holds 5"},
      {"trailing bytes", file_of("{\"a\":" + tensor("[1]", "[0,4]") + "}", 5), "1 trailing bytes after the last tensor"},
      {"hole at the start", file_of("{\"a\":" + tensor("[1]", "[4,8]") + "}", 8), "header: a.data_offsets: begins at 4, leaving a hole"},
      {"hole", file_of("{\"a\":" + tensor("[1]", "[0,4]") + ",\"b\":" + tensor("[1]", "[8,12]") + "}", 12),
       "header: b.data_offsets: begins at 8, leaving a hole"},
      {"overlap", file_of("{\"a\":" + tensor("[2]", "[0,8]") + ",\"b\":" + tensor("[1]", "[4,8]") + "}", 8),
       "header: b.data_offsets: begins at 4, overlapping"},
      {"two names for the same bytes", file_of("{\"a\":" + tensor("[1]", "[0,4]") + ",\"b\":" + tensor("[1]", "[0,4]") + "}", 4),
       "header: b.data_offsets: begins at 0, overlapping"},
      {"metadata that is no string", file_of(R"({"__metadata__":{"step":1}})", 0),
       "header: __metadata__.step: found number, expected a string"},
      {"metadata that is no object", file_of(R"({"__metadata__":"x"})", 0), "header: __metadata__: found string, expected an object"},
      {"a tensor that is no object", file_of(R"({"a":[1]})", 0), "header: a: found array, expected an object"},
      {"a key missing", file_of(R"({"a":{"dtype":"F32","shape":[]}})", 0), "header: a: key 'data_offsets' is missing"},
      {"an unknown key", file_of(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":0}})", 4), "header: a: unknown key 'x'"},
      {"a name with a line break", file_of("{\"a\\nb\":1}", 0), "header: a\\x0ab: found number"},
  };
  return all;
}

}  // namespace

TEST_CASE("damaged safetensors are refused with the file and the key or offset") {
  const TempDir dir;
  for (const DamagedFile& damaged : damaged_files()) {
    overwrite(dir / "bad.safetensors", damaged.bytes);
    const std::string message = message_of<DamagedError>([&] { SafetensorsFile::open(dir / "bad.safetensors"); });
    INFO(damaged.what << " -> " << message);
    CHECK(contains(message, (dir / "bad.safetensors").string()));
    CHECK(contains(message, damaged.expected));
    CHECK_FALSE(contains(message, "\n"));
    CHECK(read_file(dir / "bad.safetensors") == damaged.bytes);
  }
}

TEST_CASE("the same header without the damage is accepted") {
  const TempDir dir;
  // Any order in the header, an empty tensor between two others, and spaces at the end are all allowed.
  overwrite(
      dir / "good.safetensors",
      file_of("{\"b\":" + tensor("[1]", "[8,12]") + ",\"a\":" + tensor("[2]", "[0,8]") + ",\"c\":" + tensor("[0]", "[8,8]") + "}  ", 12));
  const SafetensorsFile file = SafetensorsFile::open(dir / "good.safetensors");
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.tensors()[0].name == "a");
  CHECK(file.tensors()[1].name == "c");
  CHECK(contains(message_of<DamagedError>([&] { file.at("d"); }), "tensor 'd' is missing"));
}

TEST_CASE("a file that is not there is the user's mistake, not damage") {
  const TempDir dir;
  CHECK(contains(message_of<InputError>([&] { SafetensorsFile::open(dir / "none.safetensors"); }), "none.safetensors"));
  CHECK(contains(message_of<InputError>([&] { SafetensorsFile::open(dir.path()); }), "not a regular file"));
}
