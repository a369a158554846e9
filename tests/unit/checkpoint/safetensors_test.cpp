#include "checkpoint/safetensors.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;

TEST_CASE("tensors of every dtype come back bit for bit, with their order among equal widths, and aligned") {
  const TempDir dir;
  const std::vector<Dtype> dtypes{Dtype::kU8,  Dtype::kBF16, Dtype::kI64, Dtype::kF32, Dtype::kBool, Dtype::kF64,
                                  Dtype::kF16, Dtype::kI32,  Dtype::kI16, Dtype::kI8,  Dtype::kF32};
  std::vector<std::vector<char>> bytes;
  std::vector<TensorView> tensors;
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    bytes.emplace_back(3 * 5 * dtype_bytes(dtypes[i]));
    for (std::size_t j = 0; j < bytes[i].size(); ++j) bytes[i][j] = static_cast<char>(i * 31 + j);
    tensors.push_back({"t" + std::to_string(i), dtypes[i], {3, 5}, nullptr});
  }
  for (std::size_t i = 0; i < dtypes.size(); ++i) tensors[i].data = bytes[i].data();
  tensors.push_back({"scalar \"é\" \n", Dtype::kI64, {}, bytes[2].data()});
  tensors.push_back({"none", Dtype::kF32, {7, 0}, nullptr});

  const FileDigest digest = write_safetensors(dir / "a.safetensors", tensors, {{"k", "v\n"}, {"", ""}});
  const SafetensorsFile file = SafetensorsFile::open(dir / "a.safetensors");
  CHECK(digest.bytes == file.file_bytes().size());
  CHECK(digest.bytes == safetensors_size(tensors, {{"k", "v\n"}, {"", ""}}));
  CHECK(digest.xxh3 == xxh3_hex(file.file_bytes()));
  CHECK(file.metadata() == std::map<std::string, std::string>{{"k", "v\n"}, {"", ""}});
  REQUIRE(file.tensors().size() == tensors.size());
  for (const TensorView& expected : tensors) {
    const TensorView& found = file.at(expected.name);
    CHECK(found.dtype == expected.dtype);
    CHECK(found.shape == expected.shape);
    CHECK((expected.bytes() == 0 || std::memcmp(found.data, expected.data, expected.bytes()) == 0));
    CHECK(reinterpret_cast<std::uintptr_t>(found.data) % dtype_bytes(found.dtype) == 0);
  }
  const auto data_at = static_cast<const std::byte*>(file.tensors()[0].data) - file.file_bytes().data();
  CHECK(data_at % 64 == 0);
  CHECK(file.tensors()[0].name == "t2");
  CHECK(file.tensors()[1].name == "t5");
}

TEST_CASE("a file without tensors is a file") {
  const TempDir dir;
  write_safetensors(dir / "a.safetensors", {}, {});
  CHECK(SafetensorsFile::open(dir / "a.safetensors").tensors().empty());
}

TEST_CASE("names that no reader could tell apart or decode are not written") {
  const TempDir dir;
  const float x = 1;
  const auto write = [&](const std::vector<TensorView>& tensors) {
    return message_of<InputError>([&] { write_safetensors(dir / "a.safetensors", tensors, {}); });
  };
  CHECK(contains(write({{"a", Dtype::kF32, {1}, &x}, {"a", Dtype::kF32, {1}, &x}}), "'a' is taken"));
  CHECK(contains(write({{"__metadata__", Dtype::kF32, {1}, &x}}), "'__metadata__' is taken"));
  CHECK(contains(write({{"\xff", Dtype::kF32, {1}, &x}}), "'\\xff' is not valid UTF-8"));
  CHECK_FALSE(std::filesystem::exists(dir / "a.safetensors"));
}

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
